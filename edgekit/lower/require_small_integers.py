"""Refuses integers that do not fit into 32 bits, for a backend that computes in them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.arguments import argument
from edgekit.errors import GraphError
from edgekit.lower.rewriting import constant

__all__ = ["require_small_integers"]

_WIDE = frozenset({ir.DataType.INT64, ir.DataType.UINT32, ir.DataType.UINT64})
_LIMITED = frozenset("Clip Equal Greater GreaterOrEqual Less LessOrEqual Max Min Slice".split())
"""Operators whose results are the same with the largest number of 32 bits, for tensors that fit into them."""


def require_small_integers(model: ir.Model) -> None:
    """Refuses constants outside of 32 bits, and indices of MaxPool that count columns first.

    OpenVINO 2026.4 computes integers of all types in 32 bits with a sign. The smallest and the largest integer of 64
    bits are allowed everywhere: exporters write them for "to the end".

    Raises:
        GraphError: names the node and the number.
    """
    for node in model.graph.all_nodes():
        for value in node.inputs:
            tensor = constant(value)
            if tensor is not None and tensor.dtype in _WIDE and node.op_type not in _LIMITED:
                _require_small(node, tensor.numpy())
        by_columns = node.op_type == "MaxPool" and node.attributes.get_int("storage_order", 0) == 1
        if by_columns and len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
            raise GraphError(
                f"node '{node.name or node.outputs[0].name}': this target counts the indices of MaxPool by rows, and "
                "storage_order=1 asks for columns",
                hint=f"build the model with {argument('target', 'cpu')}",
            )


def _require_small(node: ir.Node, numbers: np.ndarray) -> None:
    low, high = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    ends = np.iinfo(np.int64)
    wide = numbers[((numbers < low) | (numbers > high)) & (numbers > ends.min + 1) & (numbers < ends.max - 1)]
    if wide.size:
        raise GraphError(
            f"node '{node.name or node.outputs[0].name}' ({node.op_type}): this target computes integers in 32 bits: "
            f"expected numbers from {low} to {high}, got {wide.flat[0]}",
            hint=f"build the model with {argument('target', 'cpu')}",
        )
