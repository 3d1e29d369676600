"""Changes the opset that a graph declares, without converting its operators."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx_ir as ir

__all__ = ["has_operators_without_kernels", "lower_opset", "raise_opset"]

_FIRST = 20
_SCALE_PER_CHANNEL = 21
"""Since this opset GroupNormalization has a scale for each channel, and before for each group."""

_LAST_WITH_KERNELS = 21
_LAST_OPSET = {
    **dict.fromkeys(
        "GlobalLpPool MaxRoiPool Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike "
        "RoiAlign".split(),
        _LAST_WITH_KERNELS,
    ),
    "Swish": 24,
    "QuantizeLinear": 27,
    "DequantizeLinear": 27,
}
"""Operators that ONNX Runtime (1.32) runs in no opset after this one, though they mean the same there."""
_LAST = 24
"""Newer opsets (up to 28) add types and operators, and attributes whose default is what older opsets compute."""

_TYPES = frozenset({ir.DataType.INT2, ir.DataType.UINT2, ir.DataType.FLOAT6E2M3, ir.DataType.FLOAT6E3M2})
"""Types that opset 24 does not have."""
_TYPE_ATTRIBUTES = ("to", "output_dtype", "dtype")


def raise_opset(graph: ir.Graph, opset: int) -> str:
    """Declares a newer opset, up to 23: its operators are those of opset 20 with more types, but for one.

    Args:
        graph: modified in place, if nothing in it has another meaning in the newer opset.
        opset: the opset that an operator of the graph needs.

    Returns:
        Why the graph keeps its opset; empty if it has ``opset`` or a newer one.
    """
    before = graph.opset_imports.get("", 1)
    if before >= opset:
        return ""
    if before < _FIRST:
        return f"its operators of opset {before} mean something else there"
    if before < _SCALE_PER_CHANNEL <= opset:
        for node in graph.all_nodes():
            if node.op_type == "GroupNormalization":
                return f"its GroupNormalization '{node.name}' of opset {before} means something else there"
    graph.opset_imports[""] = opset
    return ""


def has_operators_without_kernels(operators: Iterable[str], opset: int) -> bool:
    """Whether ONNX Runtime runs one of the operators in an older opset only."""
    return any(opset > _LAST_OPSET.get(operator, opset) for operator in operators)


def lower_opset(graph: ir.Graph) -> None:
    """Declares opset 24 for a newer one, and opset 21 where ONNX Runtime runs an operator up to that one only.

    ONNX Runtime does not run all operators in opsets after 24, those of quantization among them.

    Args:
        graph: a graph of floats in float32, modified in place; one with a node that the older opset does not have, or
            has with fewer types, attributes or inputs, stays as it is. Attributes with their default value are removed.
    """
    _declare(graph, _LAST)
    operators = (node.op_type for node in _own_nodes(graph))
    if has_operators_without_kernels(operators, graph.opset_imports.get("", 1)):
        _declare(graph, _LAST_WITH_KERNELS)


def _declare(graph: ir.Graph, opset: int) -> None:
    before, nodes = graph.opset_imports.get("", 1), _own_nodes(graph)
    if before <= opset or any(map(_has_new_type, graph.initializers.values())):
        return
    unknown = [_unknown_attributes(node, before, opset) for node in nodes]
    if None in unknown:
        return
    for node, names in zip(nodes, unknown, strict=True):
        for name in names or ():
            node.attributes.pop(name)
    for part in (graph, *graph.subgraphs()):
        part.opset_imports[""] = opset


def _own_nodes(graph: ir.Graph) -> list[ir.Node]:
    return [node for node in graph.all_nodes() if node.domain in ("", "ai.onnx")]


def _has_new_type(value: ir.Value | None) -> bool:
    return value is not None and value.dtype in _TYPES


def _unknown_attributes(node: ir.Node, before: int, opset: int) -> list[str] | None:
    """Returns the attributes of a node that an older opset does not have; None if the node means nothing in it."""
    try:
        newer, older = (onnx.defs.get_schema(node.op_type, version) for version in (before, opset))
    except onnx.defs.SchemaError:
        return None
    types = [node.attributes.get_int(name, 0) for name in _TYPE_ATTRIBUTES if name in node.attributes]
    values = (*node.inputs, *node.outputs)
    if len(node.inputs) > older.max_input or any(map(_has_new_type, values)) or not _TYPES.isdisjoint(types):
        return None
    unknown = [name for name in node.attributes if name not in older.attributes]
    usual = all(node.attributes[name].value == _default_of(newer, name) for name in unknown)
    return unknown if usual else None


def _default_of(schema: onnx.defs.OpSchema, name: str) -> object:
    default = schema.attributes[name].default_value
    return None if default.type == onnx.AttributeProto.UNDEFINED else ir.serde.deserialize_attribute(default).value
