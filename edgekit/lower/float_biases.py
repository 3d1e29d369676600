"""Replaces integer biases by floats, for TensorRT, whose DequantizeLinear takes no 32-bit integers."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, initializer, stored_constant

__all__ = ["FloatBiases"]


class FloatBiases(RewritePass):
    """Replaces a ``DequantizeLinear`` of constant 32-bit integers by the numbers that they stand for.

    ONNX Runtime's static quantizer writes the bias of each layer so.

    Preconditions: the opset is 13 or newer.
    Postconditions: no DequantizeLinear of the graph, or of its subgraphs, reads constant 32-bit integers, except
        external ones. The product of integer and scale is rounded once.
    """

    operator = "DequantizeLinear"
    everywhere = True

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        integers, scale, zero = [
            stored_constant(node.inputs[index]) if index < len(node.inputs) else None for index in range(3)
        ]
        if integers is None or scale is None or integers.dtype is not ir.DataType.INT32:
            raise NotApplicable("it does not read constant 32-bit integers")
        if node.attributes.get_int("block_size", 0):
            raise NotApplicable("its scales are those of blocks")
        array, scales = integers.numpy(), scale.numpy()
        shape = [1] * array.ndim
        if scales.size > 1:
            shape[node.attributes.get_int("axis", 1) if array.ndim > 1 else 0] = -1
        if zero is not None:
            array = array - zero.numpy().reshape(shape)
        floats = (array * scales.reshape(shape)).astype(scales.dtype)
        output = node.outputs[0]
        value = initializer(graph, f"{output.name}.floats", floats)
        output.replace_all_uses_with(value, replace_graph_outputs=False)
