"""Checks that a graph has the integers that TensorRT computes as ONNX does."""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from edgekit.errors import GraphError
from edgekit.graph.operators import uses_quantized_values

__all__ = ["OtherIntegers", "other_integers", "require_signed_integers"]

_PAIRS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_TAKEN = frozenset(
    {
        ir.DataType.INT8,
        ir.DataType.INT4,
        ir.DataType.FLOAT8E4M3FN,
        ir.DataType.FLOAT4E2M1,
    }
)


class OtherIntegers(NamedTuple):
    """A node with integers that TensorRT does not take.

    Attributes:
        node: the node.
        found: which integers they are.
    """

    node: ir.Node
    found: str


def other_integers(graph: ir.Model) -> OtherIntegers | None:
    """Returns the first node whose integers TensorRT does not take; None if it takes all.

    It takes Q/DQ pairs of signed numbers with zero points of 0. TensorRT's parser refuses other zero points, and takes
    ``uint8`` for ``int8``: of what is behind a ReLU, all above the half of the range would be cut off.

    Args:
        graph: the graph for TensorRT.
    """
    for node in graph.graph.all_nodes():
        if not uses_quantized_values(node):
            continue
        found = _other_integers(node) if node.op_type in _PAIRS else "an operator that TensorRT does not have"
        if found:
            return OtherIntegers(node, found)
    return None


def require_signed_integers(graph: ir.Model, hint: str) -> None:
    """Checks that TensorRT takes all integers of a graph; see `other_integers`.

    Args:
        graph: the graph for TensorRT.
        hint: of the error.

    Raises:
        GraphError: a node has other integers; it is named, with the reason.
    """
    other = other_integers(graph)
    if other is not None:
        raise GraphError(
            f"TensorRT cannot take operator '{other.node.op_type}', node '{other.node.name}': expected QuantizeLinear "
            f"and DequantizeLinear of signed integers with zero points of 0, got {other.found}",
            hint=hint,
        )


def _other_integers(node: ir.Node) -> str:
    """Says which integers a pair has that TensorRT does not take; empty if it has none."""
    value = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    dtype = value.dtype if value is not None else None
    if dtype is not None and dtype not in _TAKEN:
        return dtype.name.lower()
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    tensor = zero.const_value if zero is not None else None
    if tensor is None or not (numbers := tensor.numpy()).any():
        return ""
    return f"a zero point of {numbers[numbers != 0].flat[0]}"
