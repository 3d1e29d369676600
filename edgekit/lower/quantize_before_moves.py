"""Moves Q/DQ pairs in front of operators that only move elements."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, constant, dequantizer, stored_constant

__all__ = ["QuantizeBeforeMoves"]

MOVES = frozenset({"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


class QuantizeBeforeMoves(RewritePass):
    """Rewrites ``DQ(Q(Transpose(x)))`` as ``Transpose(DQ(Q(x)))``, where quantized convolutions read the result.

    The results are equal: with one scale for the tensor, an element is rounded alike in each place. OpenVINO (2026.4)
    then fuses Q with the matrix product that computes ``x``, moves 8-bit integers, and merges the Transpose and a
    Reshape behind it with the change to the order of memory that the convolution reads. SegFormer's tokens become an
    image before a convolution in each of its blocks, and before each of its stages; it takes 0.74 of the time.

    In front of matrix products, pairs stay where they are. OpenVINO fuses the Transpose behind an attention with the
    attention itself, if it is in float, and fails to compute a product on integers behind some Reshapes: with these
    moved too, Swin-Tiny takes 1.08 times as long.

    Preconditions: operators are standard ones. Scales, zero points and weights are initializers.
    Postconditions: a QuantizeLinear with one scale, whose only reader is a DequantizeLinear for Convs with constant
        8-bit weights, does not read a Transpose or Reshape that nothing else reads, unless an input of the graph or a
        constant is moved.
    """

    operator = "QuantizeLinear"

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        source, moves = _moved_from(node.inputs[0])
        if source is None or not moves:
            raise NotApplicable("it does not read a Transpose or Reshape of a computed tensor, or others read that too")
        readers = [use.node for use in node.outputs[0].uses()]
        dequantize = readers[0] if len(readers) == 1 else None
        if dequantize is None or dequantizer(dequantize.outputs[0]) is not dequantize:
            raise NotApplicable("its only reader is no DequantizeLinear with constant parameters")
        scale = constant(node.inputs[1])
        if scale is None or scale.shape.numpy():
            raise NotApplicable("it has several scales")
        uses = [(use.node, use.idx) for use in dequantize.outputs[0].uses()]
        if dequantize.outputs[0].is_graph_output() or not all(_is_convolution(*use) for use in uses):
            raise NotApplicable("other nodes than convolutions with constant 8-bit weights read it")
        first, last = moves
        node.replace_input_with(0, source)
        graph.remove([node, dequantize])
        graph.insert_before(first, [node, dequantize])
        for value in (node.outputs[0], dequantize.outputs[0]):
            value.shape = source.shape
        first.replace_input_with(0, dequantize.outputs[0])
        for reader, index in uses:
            reader.replace_input_with(index, last.outputs[0])


def _moved_from(value: ir.Value | None) -> tuple[ir.Value | None, tuple[ir.Node, ir.Node] | None]:
    """Returns the tensor that ``value`` was moved from, and the first and last of the nodes that move it."""
    last = first = None
    while value is not None and (node := value.producer()) is not None:
        if node.op_type not in MOVES or len(value.uses()) != 1 or value.is_graph_output():
            return value, (first, last) if first is not None and last is not None else None
        first, last = node, last or node
        value = node.inputs[0]
    return None, None


def _is_convolution(node: ir.Node, index: int) -> bool:
    """Whether a node convolves its input ``index`` with constant 8-bit weights."""
    if node.op_type != "Conv" or index != 0:
        return False
    weights = dequantizer(node.inputs[1])
    return weights is not None and stored_constant(weights.inputs[0]) is not None
