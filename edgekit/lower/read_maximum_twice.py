"""Keeps a maximum apart from the operators behind it, for a backend that fuses them in a wrong way."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.graph.operators import PRODUCTS
from edgekit.lower.rewriting import NotApplicable, RewritePass, new_node

__all__ = ["ReadMaximumTwice"]


class ReadMaximumTwice(RewritePass):
    """Inserts ``Max(y, y)`` behind a maximum or minimum over axes, if a QuantizeLinear follows.

    OpenVINO 2026.4 makes one kernel of a ReduceMax, the elementwise operators behind it and the quantization behind
    these, whose results are wrong (an SNR of 13 to 18 dB). It does not fuse what reads the maximum twice.

    Args:
        operator: ``ReduceMax``, ``ReduceMin`` or ``GlobalMaxPool``.

    Preconditions: `PropagateNan` ran: it would guard the new Max.
    Postconditions: names of other values stay; results are equal.
    """

    everywhere = True

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = operator

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        result = node.outputs[0]
        if not _is_quantized_behind(result):
            raise NotApplicable("no QuantizeLinear follows")
        uses = list(result.uses())
        name = f"{result.name}.twice"
        twice = new_node("Max", [result, result], name=name, output=name)
        graph.insert_after(node, [twice])
        for user, index in uses:
            user.replace_input_with(index, twice.outputs[0])


def _is_quantized_behind(value: ir.Value) -> bool:
    """Whether a QuantizeLinear reads the value behind operators that each have one reader."""
    while len(value.uses()) == 1 and not value.is_graph_output():
        (use,) = value.uses()
        if use.node.op_type == "QuantizeLinear":
            return True
        if use.node.op_type in PRODUCTS or not use.node.outputs:
            return False
        value = use.node.outputs[0]
    return False
