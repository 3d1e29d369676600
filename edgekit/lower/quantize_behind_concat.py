"""Keeps Q/DQ pairs behind a Concat, for a backend that moves them in front of it, and then fails on the product."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.graph.operators import PRODUCTS
from edgekit.lower.rewriting import NotApplicable, RewritePass, constant
from edgekit.lower.stop_dequantizers import in_floats

__all__ = ["QuantizeBehindConcat", "leads_to_wrong_product"]

_CROSSED = frozenset(
    "Add Clip DequantizeLinear Div Flatten Identity Mul QuantizeLinear Relu Reshape Squeeze Sub Unsqueeze".split()
)
"""Operators that OpenVINO moves Q or DQ across, towards the Concat or away from it."""
_RANK_OF_HEADS = 4


class QuantizeBehindConcat(RewritePass):
    """Inserts a ``Max`` with the lowest number behind a ``Concat`` along another axis than the channels.

    OpenVINO 2026.4 moves a QuantizeLinear in front of a Concat, and then has a scale for each index of the joined axis.
    Where these are not the channels that the product behind sums over, it fails to compile a matrix product of tokens
    or rows, and computes a convolution in float. It moves none across a Max, which it fuses with the Q.

    Preconditions: values have their shapes.
    Postconditions: no product with constant weights of 8 bits reads a Concat along another axis, through pairs,
        elementwise operators and Reshapes. A matrix product of four axes may, if there is a QuantizeLinear between:
        OpenVINO computes it on integers. Names stay; results are equal.
    """

    operator = "Concat"
    everywhere = True

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        joined = node.outputs[0]
        if joined.shape is None or joined.dtype != ir.DataType.FLOAT:
            raise NotApplicable("it does not join floats of a known number of axes")
        axis = node.attributes.get_int("axis", 0) % len(joined.shape)
        uses = [(use.node, use.idx) for use in joined.uses() if _is_moved_wrongly(joined, axis, use.node, use.idx)]
        if not uses:
            raise NotApplicable("no layer on integers reads it, or it joins the channels")
        kept = in_floats(graph, joined, f"{joined.name}.joined")
        graph.insert_after(node, [kept])
        for user, index in uses:
            user.replace_input_with(index, kept.outputs[0])


def leads_to_wrong_product(joined: ir.Value, axis: int) -> bool:
    """Whether the value that a Concat along an axis makes leads to a product that OpenVINO computes in float."""
    return any(_is_moved_wrongly(joined, axis, use.node, use.idx) for use in joined.uses())


def _is_moved_wrongly(joined: ir.Value, axis: int, user: ir.Node, index: int) -> bool:
    """Whether an input of a node leads to a product that OpenVINO would not compute on integers."""
    waiting, seen = [(user, index, False)], set[ir.Node]()
    while waiting:
        user, index, quantized = waiting.pop()
        if index != 0 or user in seen:
            continue
        seen.add(user)
        if user.op_type in PRODUCTS:
            if _has_integer_weights(user) and not _is_right(joined, axis, user, quantized=quantized):
                return True
        elif user.op_type in _CROSSED:
            behind = quantized or user.op_type == "QuantizeLinear"
            waiting += [(use.node, use.idx, behind) for use in user.outputs[0].uses()]
    return False


def _has_integer_weights(product: ir.Node) -> bool:
    weights = product.inputs[1].producer() if product.inputs[1] is not None else None
    return weights is not None and weights.op_type == "DequantizeLinear" and constant(weights.inputs[0]) is not None


def _is_right(joined: ir.Value, axis: int, product: ir.Node, *, quantized: bool) -> bool:
    assert joined.shape is not None
    rank = len(joined.shape)
    if product.op_type in ("Conv", "ConvTranspose"):
        return axis == 1
    return axis == rank - 1 or (quantized and rank == _RANK_OF_HEADS)
