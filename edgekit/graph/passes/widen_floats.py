"""Converts FP16, BF16 and FP64 graphs to FP32."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from edgekit.errors import GraphError
from edgekit.graph.element_types import FLOATS
from edgekit.graph.insert import inserted_cast
from edgekit.graph.operators import PRODUCTS
from edgekit.graph.passes.infer_shapes import InferShapes
from edgekit.graph.passes.inline_functions import inlined

__all__ = ["SOURCE_TYPES", "WidenFloats", "is_widened", "source_types", "types_note", "widened"]

SOURCE_TYPES = "edgekit.source_types"
"""Graph metadata: element types that inputs and outputs had in the file, as in ``x:float16 y:float64``."""

_OTHER_FLOATS = FLOATS - {ir.DataType.FLOAT}
_TYPE_ATTRIBUTES = frozenset({"dtype", "output_datatype", "output_dtype", "precision", "softmax_precision", "to"})
"""INT attributes that name an element type, by the operator schemas of ONNX and ONNX Runtime."""
_ACCUMULATORS = frozenset({"softmax_precision", "stash_type"})
"""Those that name the type to compute in, for which ONNX allows fewer types than for values."""
_LIMITS = np.finfo(np.float32)


def widened(graph: ir.Model) -> ir.Model:
    """Returns the graph with its functions inlined and all floats converted to FP32; ``graph`` is not changed.

    It computes the reference of a file in FP16, BF16 or FP64: the same numbers, computed in FP32. See `WidenFloats`.

    Args:
        graph: any valid graph, of any opset, as `onnx_ir.from_proto` returns it.

    Raises:
        GraphError: a function cannot be inlined, or a node reads the bits of a float.
    """
    graph = inlined(graph.clone(deep_copy=False))
    WidenFloats()(graph)
    return graph


def source_types(graph: ir.Model) -> dict[str, str]:
    """Element types that inputs and outputs had before `WidenFloats`, by name, for those that it changed."""
    text = graph.metadata_props.get(SOURCE_TYPES, "")
    return dict((name, dtype) for name, _, dtype in (item.rpartition(":") for item in text.split()))


def is_widened(graph: ir.Model) -> bool:
    """Whether `WidenFloats` changed the graph."""
    return SOURCE_TYPES in graph.metadata_props


def types_note(graph: ir.Model) -> str:
    """Says which inputs and outputs have another type than in the file; empty if none has."""
    types = source_types(graph)
    if not types:
        return ""
    changed = ", ".join(f"{name} ({dtype})" for name, dtype in types.items())
    return f"the engine has float32 in place of the file's types for {changed}; the numbers stay as they are"


class WidenFloats(ir.passes.InPlacePass):
    """Converts FP16, BF16 and FP64 to FP32: weights, constants, casts, inputs, outputs and the values between them.

    Numbers stay as they are: an FP16 weight keeps its value. A finite number stays finite, so that a mask of -1.8e308
    becomes the lowest FP32 number, and one that is not 0 stays not 0, so that a guard against division by 0 works.

    FP64 is kept where FP32 could compute another integer: in the arithmetic between integers that has no product and
    meets no other float, such as ``Floor(Cast(size) * 0.1)``, and in Range, whose length depends on rounding.

    Preconditions: functions are inlined.
    Postconditions: no input, output, initializer or attribute is FP16 or BF16; FP64 is left in such arithmetic only.
        The model's metadata has the types that inputs and outputs had (`source_types`).

    Raises:
        GraphError: a BitCast reads or writes the bits of one of the types.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if not _is_mixed(model):
            return ir.passes.PassResult(model, modified=False)
        _require_no_bits(model)
        InferShapes()(model)  # the types of all values
        changed = [
            f"{value.name}:{value.dtype.numpy()}"
            for value in dict.fromkeys((*model.graph.inputs, *model.graph.outputs))
            if value.dtype in _OTHER_FLOATS
        ]
        kept = _exact_doubles(model)
        _separate(model, kept)
        for graph in model.graphs():
            for value in _values(graph):
                _widen_value(value, kept)
            for node in graph:
                _widen_attributes(node, kept)
        model.metadata_props[SOURCE_TYPES] = " ".join(changed)
        return ir.passes.PassResult(model, modified=True)


def _is_mixed(model: ir.Model) -> bool:
    """Whether any value, weight or attribute has one of the types."""
    return any(
        _has_other_floats(value.type) or (value.const_value is not None and value.const_value.dtype in _OTHER_FLOATS)
        for graph in model.graphs()
        for value in _values(graph)
    ) or any(
        _widened_attribute(node, attribute) is not attribute
        for node in model.graph.all_nodes()
        for attribute in node.attributes.values()
    )


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _has_other_floats(kind: ir.TypeProtocol | None) -> bool:
    return _widened_type(kind) is not kind


def _widened_type(kind: ir.TypeProtocol | None) -> ir.TypeProtocol | None:
    """Returns the type with FP32 as its element type; the same object if nothing changes."""
    if isinstance(kind, (ir.SequenceType, ir.OptionalType)):
        inner = _widened_type(kind.elem_type)
        if inner is None or inner is kind.elem_type:
            return kind
        return type(kind)(inner, denotation=kind.denotation)
    if isinstance(kind, (ir.TensorType, ir.SparseTensorType)) and kind.dtype in _OTHER_FLOATS:
        return type(kind)(ir.DataType.FLOAT, denotation=kind.denotation)
    return kind


def _widened_tensor(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if tensor.dtype not in _OTHER_FLOATS:
        return tensor
    source = np.asarray(tensor.numpy())
    with np.errstate(over="ignore", under="ignore"):
        array = source.astype(np.float32)
    if tensor.dtype == ir.DataType.DOUBLE:
        array = np.where(np.isinf(array) & np.isfinite(source), np.copysign(_LIMITS.max, array), array)
        array = np.where((array == 0) & (source != 0), np.copysign(_LIMITS.tiny, array), array)
    return ir.tensor(array, name=tensor.name)


def _widened_attribute(node: ir.Node, attribute: ir.Attr) -> ir.Attr:
    """Returns the attribute with FP32 in place of the other types; the same object if nothing changes."""
    if attribute.is_ref():
        return attribute
    kind = ir.AttributeType
    if attribute.type == kind.INT and attribute.name in _TYPE_ATTRIBUTES | _ACCUMULATORS:
        return ir.AttrInt64(attribute.name, 1) if attribute.as_int() in _OTHER_FLOATS else attribute
    if attribute.type == kind.TENSOR:
        tensor = _widened_tensor(attribute.as_tensor())
        return attribute if tensor is attribute.value else ir.AttrTensor(attribute.name, tensor)
    if attribute.type == kind.TENSORS:
        tensors = [_widened_tensor(tensor) for tensor in attribute.as_tensors()]
        same = all(a is b for a, b in zip(tensors, attribute.as_tensors(), strict=True))
        return attribute if same else ir.AttrTensors(attribute.name, tensors)
    if attribute.type == kind.TYPE_PROTO:
        inner = _widened_type(attribute.value.type)
        if inner is not attribute.value.type:
            return ir.Attr(attribute.name, kind.TYPE_PROTO, ir.TypeAndShape(inner, attribute.value.shape))
    return attribute


def _widen_attributes(node: ir.Node, kept: set[ir.Node]) -> None:
    stays = node in kept if node.op_type != "Constant" else _belongs(node.outputs[0], kept)
    if stays and (node.op_type != "Cast" or _is_double(node.outputs[0])):
        return
    for name, attribute in list(node.attributes.items()):
        changed = _widened_attribute(node, attribute)
        if changed is not attribute:
            node.attributes[name] = changed


def _widen_value(value: ir.Value, kept: set[ir.Node]) -> None:
    if value.dtype == ir.DataType.DOUBLE and _belongs(value, kept):
        return
    value.type = _widened_type(value.type)
    if value.const_value is not None:
        value.const_value = _widened_tensor(value.const_value)
        if value.is_initializer():
            value.dtype = value.const_value.dtype


def _belongs(value: ir.Value, kept: set[ir.Node]) -> bool:
    """Whether a double stays: a kept node computes it or, if it is a constant, reads it."""
    producer = value.producer()
    if producer is not None and producer.op_type != "Constant":
        return producer in kept
    return any(use.node in kept for use in value.uses())


def _require_no_bits(model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        read = node.inputs[0] if node.inputs else None
        if node.op_type == "BitCast" and (
            (read is not None and read.dtype in _OTHER_FLOATS) or node.attributes.get_int("to", 0) in _OTHER_FLOATS
        ):
            raise GraphError(
                f"node '{node.name or node.outputs[0].name}': BitCast reads or writes the bits of a float that is not "
                "float32, but EdgeKit computes in float32",
                hint="export the model in float32",
            )


def _exact_doubles(model: ir.Model) -> set[ir.Node]:
    """Finds the nodes that stay in FP64; see `WidenFloats`."""
    nodes = [node for node in model.graph.all_nodes() if any(map(_is_double, _tensors_of(node)))]
    parts = _Parts(nodes)
    for node in nodes:
        for value in node.inputs:
            producer = value.producer() if _is_double(value) and value is not None else None
            if producer is not None and producer.op_type != "Range":
                parts.join(node, producer)
    found = {node for part in parts.all() if _is_exact(part) for node in part}
    return found | {node for node in nodes if node.op_type == "Range"}


class _Parts:
    """Disjoint sets of nodes."""

    def __init__(self, nodes: list[ir.Node]) -> None:
        self._parent = {node: node for node in nodes}

    def join(self, a: ir.Node, b: ir.Node) -> None:
        if b in self._parent:
            self._parent[self._root(a)] = self._root(b)

    def all(self) -> list[list[ir.Node]]:
        parts: dict[ir.Node, list[ir.Node]] = {}
        for node in self._parent:
            parts.setdefault(self._root(node), []).append(node)
        return list(parts.values())

    def _root(self, node: ir.Node) -> ir.Node:
        while (parent := self._parent[node]) is not node:
            self._parent[node] = node = self._parent[parent]
        return node


def _is_exact(part: list[ir.Node]) -> bool:
    """Whether the arithmetic of these nodes is between integers."""
    from_integers = False
    for node in part:
        if node.op_type in PRODUCTS or _has_subgraph(node):
            return False
        for value in node.inputs:
            if value is None or _is_constant(value):
                continue
            producer = value.producer()
            after_range = producer is not None and producer.op_type == "Range"
            if value.dtype is None or (value.dtype in FLOATS and (not _is_double(value) or producer is None)):
                return False
            if after_range and _is_double(value):
                return False
            from_integers |= value.dtype not in FLOATS
        if node.op_type != "Range" and any(_leaves(value) for value in node.outputs):
            return False
    return from_integers


def _leaves(value: ir.Value) -> bool:
    """Whether floats leave the arithmetic at ``value``: as another float, or as an output of a graph."""
    if value.dtype is None or not isinstance(value.type, ir.TensorType):
        return bool(value.name)
    return value.dtype in FLOATS and (not _is_double(value) or value.is_graph_output())


def _is_double(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.DOUBLE


def _is_constant(value: ir.Value) -> bool:
    producer = value.producer()
    return value.const_value is not None if producer is None else producer.op_type == "Constant"


def _tensors_of(node: ir.Node) -> Iterator[ir.Value | None]:
    yield from node.inputs
    yield from node.outputs


def _has_subgraph(node: ir.Node) -> bool:
    return any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())


def _separate(model: ir.Model, kept: set[ir.Node]) -> None:
    """Inserts casts where a kept node reads a value that becomes FP32, or another node reads a double that stays."""
    names = _unused_names(model)
    for value in [value for graph in model.graphs() for value in _values(graph) if _is_double(value)]:
        stays = _belongs(value, kept)
        others = [use for use in tuple(value.uses()) if (use.node in kept) is not stays]
        escapes = stays and value.is_graph_output()
        if not others and not escapes:
            continue
        graph = value.graph
        assert graph is not None
        dtype = ir.DataType.FLOAT if stays else ir.DataType.DOUBLE
        cast = inserted_cast(graph, value, dtype, names(f"{value.name}_{dtype.name.lower()}"))
        producer = cast.producer()
        assert producer is not None
        kept |= set() if stays else {producer}
        for use in others:
            use.node.replace_input_with(use.idx, cast)
        if escapes:
            _replace_output(graph, value, cast, names)


def _replace_output(graph: ir.Graph, value: ir.Value, result: ir.Value, names: Callable[[str], str]) -> None:
    """Makes ``result`` the graph's output in place of ``value``, under its name."""
    name = value.name or ""
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = result
    value.name = names(name)
    result.name = name


def _unused_names(model: ir.Model) -> Callable[[str], str]:
    taken = {value.name for graph in model.graphs() for value in _values(graph)}

    def unused(name: str) -> str:
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    return unused
