"""Checks that a graph has the integers that TensorRT computes as ONNX does."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.errors import GraphError
from edgekit.graph.operators import uses_quantized_values

__all__ = ["require_signed_integers"]

_PAIRS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def require_signed_integers(graph: ir.Model, hint: str) -> None:
    """Checks that all integers are those of Q/DQ pairs of signed numbers with zero points of 0.

    TensorRT's parser refuses other zero points, and takes ``uint8`` for ``int8``: of what is behind a ReLU, all above
    the half of the range would be cut off.

    Args:
        graph: the graph for TensorRT.
        hint: of the error.

    Raises:
        GraphError: a node has other integers; it is named, with the reason.
    """
    for node in graph.graph.all_nodes():
        if not uses_quantized_values(node):
            continue
        found = _other_integers(node) if node.op_type in _PAIRS else "an operator that TensorRT does not have"
        if found:
            raise GraphError(
                f"TensorRT cannot take operator '{node.op_type}', node '{node.name}': expected QuantizeLinear and "
                f"DequantizeLinear of signed integers with zero points of 0, got {found}",
                hint=hint,
            )


def _other_integers(node: ir.Node) -> str:
    """Says which integers a pair has that TensorRT does not take; empty if it has none."""
    value = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    if value is not None and value.dtype is ir.DataType.UINT8:
        return "uint8"
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    tensor = zero.const_value if zero is not None else None
    if tensor is None or not (numbers := tensor.numpy()).any():
        return ""
    return f"a zero point of {numbers[numbers != 0].flat[0]}"
