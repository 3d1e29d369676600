"""Adds a constant bias and a computed mask to the scores of an attention one after the other."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, new_node, replace_node, stored_constant

__all__ = ["AddBiasToScores"]


class AddBiasToScores(RewritePass):
    """Replaces ``scores + (bias + mask)`` before a Softmax by ``(scores + bias) + mask``, for a constant bias.

    So T5 adds its relative positions and its mask. OpenVINO 2026.4 makes one kernel of the attention, and takes another
    sum for its mask if one part is a constant and the other one computed: the outputs are wrong.

    Preconditions: constants are initializers.
    Postconditions: names stay; results are equal up to rounding.
    """

    operator = "Softmax"
    everywhere = True

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        total = _sum(node.inputs[0])
        if total is None or len(total.outputs[0].uses()) != 1 or total.outputs[0].is_graph_output():
            raise NotApplicable("it does not read a sum of its own")
        for scores, added in (total.inputs, total.inputs[::-1]):
            both = _sum(added)
            if both is None or scores is None:
                continue
            for bias, mask in (both.inputs, both.inputs[::-1]):
                if _fits(bias, scores) and stored_constant(mask) is None:
                    name = total.name or total.outputs[0].name
                    first = new_node("Add", [scores, bias], name=f"{name}.bias", output=f"{name}.bias")
                    first.outputs[0].type, first.outputs[0].shape = scores.type, scores.shape
                    second = new_node("Add", [first.outputs[0], mask], name=total.name)
                    replace_node(total, [first, second])
                    return
        raise NotApplicable("no part of the sum is a constant and a computed mask")


def _fits(bias: ir.Value | None, scores: ir.Value) -> bool:
    """Returns whether a value is a constant that the scores keep their shape with."""
    tensor = stored_constant(bias)
    if tensor is None or scores.shape is None or len(tensor.shape) > len(scores.shape):
        return False
    sizes = list(scores.shape)[len(scores.shape) - len(tensor.shape) :]
    return all(size in (1, wanted) for size, wanted in zip(tensor.shape.numpy(), sizes, strict=True))


def _sum(value: ir.Value | None) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == "Add" and node.domain == "" else None
