"""Changes the opset that a graph declares, without converting its operators."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx_ir as ir

__all__ = ["has_operators_without_kernels", "lower_opset", "raise_opset"]

_FIRST = 20
_SCALE_PER_CHANNEL = 21
"""Since this opset GroupNormalization has a scale for each channel, and before for each group."""

_WITHOUT_KERNELS = frozenset(
    "GlobalLpPool MaxRoiPool Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike RoiAlign".split()
)
"""Operators of opset 22 that ONNX Runtime (1.32) has no kernels for, while it has those of opset 21."""
_LAST_WITH_KERNELS = 21


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
    return opset > _LAST_WITH_KERNELS and not _WITHOUT_KERNELS.isdisjoint(operators)


def lower_opset(graph: ir.Graph) -> None:
    """Declares opset 21 where ONNX Runtime runs an operator of a newer opset in that one only.

    Args:
        graph: a graph of floats in float32, modified in place; one with a node that opset 21 does not have, or has with
            fewer attributes or inputs, stays as it is. Opset 22 to 24 only add types to all others.
    """
    nodes = [node for node in graph.all_nodes() if node.domain in ("", "ai.onnx")]
    opset = graph.opset_imports.get("", 1)
    if has_operators_without_kernels((node.op_type for node in nodes), opset) and all(map(_is_in_older_opset, nodes)):
        for part in (graph, *graph.subgraphs()):
            part.opset_imports[""] = _LAST_WITH_KERNELS


def _is_in_older_opset(node: ir.Node) -> bool:
    try:
        schema = onnx.defs.get_schema(node.op_type, _LAST_WITH_KERNELS)
    except onnx.defs.SchemaError:
        return False
    return node.attributes.keys() <= schema.attributes.keys() and len(node.inputs) <= schema.max_input
