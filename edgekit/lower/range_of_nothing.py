"""Limits a Range whose limit is on the wrong side of its start, for a backend that counts backwards then."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, initializer, new_node

__all__ = ["RangeOfNothing"]


class RangeOfNothing(RewritePass):
    """Replaces the limit of a ``Range`` by its start where the step leads away from it.

    ONNX returns no element then; OpenVINO 2026.4 returns as many as there would be in the other direction. Where all
    bounds are sizes of tensors and constants, the Range stays: OpenVINO derives shapes from it.

    Preconditions: values have their types.
    Postconditions: names stay; results are equal.
    """

    operator = "Range"
    everywhere = True

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        start, limit, step = node.inputs
        if step is None or step.dtype is None or not any(map(_is_computed, node.inputs)):
            raise NotApplicable("its bounds are sizes or constants")
        name = node.outputs[0].name
        zero = initializer(graph, f"{name}.zero", np.zeros((), step.dtype.numpy()))
        upwards = new_node("Less", [zero, step], name=f"{name}.upwards", output=f"{name}.upwards")
        above = new_node("Max", [start, limit], name=f"{name}.above", output=f"{name}.above")
        below = new_node("Min", [start, limit], name=f"{name}.below", output=f"{name}.below")
        chosen = new_node(
            "Where",
            [upwards.outputs[0], above.outputs[0], below.outputs[0]],
            name=f"{name}.limit",
            output=f"{name}.limit",
        )
        graph.insert_before(node, [upwards, above, below, chosen])
        node.replace_input_with(1, chosen.outputs[0])


def _is_computed(value: ir.Value | None) -> bool:
    """Whether a value depends on the numbers in a tensor, not on sizes alone."""
    waiting, seen = [value], set()
    while waiting:
        each = waiting.pop()
        if each is None or each in seen or (each.is_initializer() and not each.is_graph_input()):
            continue
        seen.add(each)
        node = each.producer()
        if node is None:
            return True
        if node.op_type not in ("Shape", "Size", "Constant"):
            waiting += node.inputs
    return False
