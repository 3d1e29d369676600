"""Replaces norms and logarithms over no axes by their operator on each element."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, constant, new_node, replace_node

__all__ = ["ReduceOfNoAxes"]


class ReduceOfNoAxes(RewritePass):
    """Replaces ``ReduceL1``, ``ReduceL2`` and ``ReduceLogSum`` with ``noop_with_empty_axes`` and without axes.

    ONNX Runtime computes the norm, or the logarithm, of each element; OpenVINO 2026.4 returns the elements.

    Args:
        operator: one of the three.

    Postconditions: no node of the operator has neither axes nor anything to reduce. Names stay.
    """

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = operator

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        axes = node.inputs[1] if len(node.inputs) > 1 else None
        given = constant(axes)
        has_axes = axes is not None and (given is None or given.size > 0)
        if has_axes or not node.attributes.get_int("noop_with_empty_axes", 0):
            raise NotApplicable("it reduces axes")
        single = "Log" if self.operator == "ReduceLogSum" else "Abs"
        replace_node(node, [new_node(single, node.inputs[:1], name=node.name)])
