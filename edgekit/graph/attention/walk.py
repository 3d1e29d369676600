"""Follows single values of a graph forwards and backwards, through what changes no number."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.graph.shape_values import number_of

__all__ = [
    "DEQUANTIZE",
    "DOMAINS",
    "MAX_PATH",
    "QUANTIZE",
    "is_constant",
    "only_forwards",
    "only_reader_of",
    "producer_of",
    "rank_of",
    "readers_of",
    "scaled_by_number",
]

DOMAINS = ("", "ai.onnx")
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
MAX_PATH = 64
"""Nodes between a Softmax and a product. Exporters write ten or fewer."""


def rank_of(value: ir.Value | None) -> int:
    """Returns the number of dimensions; 0 if it is unknown."""
    return len(value.shape) if value is not None and value.shape is not None else 0


def is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer() and not value.is_graph_input()


def producer_of(value: ir.Value | None) -> ir.Node | None:
    """Returns the standard operator that computes ``value``, in the graph itself."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.domain in DOMAINS else None


def readers_of(value: ir.Value) -> list[ir.Node]:
    """Returns the nodes that read ``value``; empty if it is a graph output, or read in a subgraph."""
    nodes = [use.node for use in value.uses()]
    own = value.producer()
    inside = own is None or all(node.graph is own.graph for node in nodes)
    return nodes if inside and not value.is_graph_output() else []


def only_reader_of(value: ir.Value) -> ir.Node | None:
    readers = readers_of(value)
    return readers[0] if len(readers) == 1 and readers[0].domain in DOMAINS else None


def only_forwards(node: ir.Node) -> bool:
    """Whether ``node`` changes nothing but the element type: an Identity, a Dropout when not training, a Q/DQ pair."""
    if node.op_type == "Dropout":
        trains = node.inputs[2] if len(node.inputs) > 2 else None
        unmasked = all(not mask.uses() and not mask.is_graph_output() for mask in node.outputs[1:])
        return unmasked and (trains is None or number_of(trains) == 0)
    if node.op_type == "Cast":
        source = node.inputs[0]
        return source is not None and is_float(source) and is_float(node.outputs[0])
    return node.op_type in ("Identity", QUANTIZE, DEQUANTIZE)


def is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def scaled_by_number(node: ir.Node) -> tuple[ir.Value, float] | None:
    """Returns the operand and the factor of a Mul or Div by a number."""
    if node.op_type not in ("Mul", "Div"):
        return None
    first, second = node.inputs
    for operand, other in ((first, second), (second, first)):
        factor = number_of(other)
        if operand is None or factor is None or rank_of(operand) < 3:
            continue
        if node.op_type == "Mul":
            return operand, factor
        return (operand, 1 / factor) if operand is first and factor else None
    return None
