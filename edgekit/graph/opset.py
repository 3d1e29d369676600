"""Raises the opset of a graph without converting its operators."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["raise_opset"]

_FIRST = 20
_SCALE_PER_CHANNEL = 21
"""Since this opset GroupNormalization has a scale for each channel, and before for each group."""


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
