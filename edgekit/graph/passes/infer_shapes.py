"""Infers element types and shapes of all values with ONNX's shape inference."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import onnx
import onnx_ir as ir

from edgekit.errors import GraphError
from edgekit.graph.external_weights import external_weights
from edgekit.graph.load.runtime_operators import RUNTIME_DOMAINS, inputs_of_the_type_of
from edgekit.graph.shape_values import elements_of, number_of

__all__ = ["INFERENCE_ERRORS", "InferShapes"]

INFERENCE_ERRORS = (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError)
"""What ONNX's inference of shapes raises on a graph that contradicts itself: it is C++, as are these classes."""


_MAX_PROPAGATED = 1 << 20
_NEEDS_TYPES = frozenset({"DictVectorizer", "EyeLike", "RegexFullMatch", "TreeEnsemble"})
_UNKNOWN_DOMAIN = "edgekit.unknown"
_SHAPE_INPUT = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}
"""The input that has the sizes of the output, or the factors of its sizes."""
_PROPAGATING = frozenset(
    schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.has_data_propagation_function
)
"""Operators whose elements ONNX's data propagation computes."""


class InferShapes(ir.passes.InPlacePass):
    """Runs ONNX's shape inference without the large weights, so that graphs over 2 GB work too.

    onnx_ir's own pass is not used because it changes sequences to tensors.

    Preconditions: nodes are in topological order.
    Postconditions: values have the types and shapes that ONNX can infer; outputs of operators unknown to ONNX keep
        theirs, and those of ONNX Runtime's operators get the type that these declare. Nodes, names and weights are
        unchanged.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        while True:
            hidden = [node for node in model.graph.all_nodes() if _ends_the_process(node)]
            modified |= self._inferred(model, hidden)
            typed = any([_set_type(value, node) for node in model.graph.all_nodes() for value in node.outputs])
            if not typed and not any(map(_has_types, hidden)):
                return ir.passes.PassResult(model, modified=modified)

    def _inferred(self, model: ir.Model, hidden: Sequence[ir.Node]) -> bool:
        """Infers all but what needs the types that ``hidden`` nodes would give."""
        with _hidden(model, hidden), external_weights(model):
            content = ir.to_proto(model).SerializeToString()
        propagates = not _has_long_vector(model)
        modified = _infer(model, content, propagates=propagates)
        if not propagates and not _has_long_vector(model):  # what is a vector is known now
            modified |= _infer(model, content, propagates=True)
        return modified


def _has_types(node: ir.Node) -> bool:
    return all(value is None or value.type is not None for value in node.inputs)


def _set_type(value: ir.Value, node: ir.Node) -> bool:
    """Gives an output of one of ONNX Runtime's operators the type of the input that has to have the same."""
    if value.type is not None or not value.name or node.domain not in RUNTIME_DOMAINS:
        return False
    same = inputs_of_the_type_of(node.domain, node.op_type, node.outputs.index(value))
    given = (node.inputs[index] for index in same if index < len(node.inputs))
    dtype = next((each.dtype for each in given if each is not None and each.dtype is not None), None)
    if dtype is None:
        return False
    value.type = ir.TensorType(dtype)
    return True


def _ends_the_process(node: ir.Node) -> bool:
    """Whether ONNX's shape inference reads the type of an input that may have none: where it found a contradiction."""
    return node.op_type in _NEEDS_TYPES and not _has_types(node)


@contextmanager
def _hidden(model: ir.Model, nodes: Sequence[ir.Node]) -> Iterator[None]:
    """Puts nodes into a domain that ONNX does not know."""
    domains = [(node, node.domain) for node in nodes]
    model.opset_imports[_UNKNOWN_DOMAIN] = 1
    for node in nodes:
        node.domain = _UNKNOWN_DOMAIN
    try:
        yield
    finally:
        del model.opset_imports[_UNKNOWN_DOMAIN]
        for node, domain in domains:
            node.domain = domain


def _infer(model: ir.Model, content: bytes, *, propagates: bool) -> bool:
    """Gives the values the types that ONNX infers for the serialized model; returns whether any is another."""
    try:
        inferred = onnx.shape_inference.infer_shapes(content, check_type=False, strict_mode=False, data_prop=propagates)
    except INFERENCE_ERRORS as e:
        raise GraphError(f"the shapes of graph '{model.graph.name}' contradict each other: {e}") from e
    # Only the types are read: to make the whole model an `ir.Model` again would take most of the time.
    return any([_update(value, found) for value, found in _inferred_types(model.graph, inferred.graph)])


def _has_long_vector(model: ir.Model) -> bool:
    """Whether the graph may have a long vector: ONNX's data propagation lists the elements of vectors, however many.

    A Concat may double a vector, and the next one again: lengths are followed through the operators that propagate.
    """
    lengths: dict[ir.Value, float] = {}

    def length_of(value: ir.Value | None) -> float:
        if value is None:
            return 0
        shape = value.shape
        if shape is None:
            return lengths.get(value, 1)
        if len(shape) > 1:
            return 0
        return math.prod(shape.numpy()) if shape.is_static() else 1

    for node in model.graph.all_nodes():
        lengths_in = [length_of(value) for value in node.inputs]
        inherited = 0.0
        if node.domain in ("", "ai.onnx") and node.op_type in _PROPAGATING:
            inherited = sum(lengths_in) if node.op_type == "Concat" else max(lengths_in, default=0)
        made = _length(node)
        lengths.update((value, max(made, inherited)) for value in node.outputs)
        if max((made, *lengths_in, *map(length_of, node.outputs))) > _MAX_PROPAGATED:
            return True
    return False


def _length(node: ir.Node) -> float:
    """Returns the length of the vector that a node makes of constants; 0 if it makes none, or it is not known."""
    if node.op_type == "Range" and len(node.inputs) == 3:
        start, limit, delta = (number_of(value) for value in node.inputs)
        return 0 if start is None or limit is None or not delta else abs((limit - start) / delta)
    place = _SHAPE_INPUT.get(node.op_type)
    shape = node.inputs[place] if place is not None and place < len(node.inputs) else None
    sizes = elements_of(shape) if shape is not None else None
    return math.prod(size for size in sizes or (0,) if isinstance(size, (int, float)))


def _inferred_types(graph: ir.Graph, inferred: onnx.GraphProto) -> Iterator[tuple[ir.Value, onnx.TypeProto]]:
    """Yields the node outputs of a graph and its subgraphs with their types in the same graph after inference.

    Two branches of an If may have values of one name: names are looked up graph by graph.
    """
    types = {value.name: value.type for value in (*inferred.value_info, *inferred.output)}
    for node, same in zip(graph, inferred.node, strict=True):
        for value in node.outputs:
            if value.name in types:
                yield value, types[value.name]
        given = {attribute.name: attribute for attribute in same.attribute}
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from _inferred_types(attribute.as_graph(), given[attribute.name].g)
            elif attribute.type == ir.AttributeType.GRAPHS:
                for each, inner in zip(attribute.as_graphs(), given[attribute.name].graphs, strict=True):
                    yield from _inferred_types(each, inner)


def _update(value: ir.Value, found: onnx.TypeProto) -> bool:
    """Sets the type and the shape of a value, if they were inferred; returns whether they are other than before."""
    modified = False
    type_ = ir.serde.deserialize_type_proto_for_type(found)
    if type_ is not None and type_ != value.type:
        value.type, modified = type_, True
    shape = ir.serde.deserialize_type_proto_for_shape(found)
    if shape is not None and shape != value.shape:
        value.shape, modified = shape, True
    return modified
