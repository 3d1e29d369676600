"""Writes the gaps of a dilated kernel as zeros."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, dequantizer, initializer, new_node, stored_constant

__all__ = ["SpreadKernel"]


class SpreadKernel(RewritePass):
    """Puts zeros between the weights of a ``ConvTranspose`` with strides and dilations, which has no dilations then.

    TensorRT-RTX 1.6 refuses one that has both: "Strided & Dilated Deconv are currently not supported".

    Preconditions: values have their types.
    Postconditions: no ConvTranspose with constant weights in the file has strides and dilations. Names stay; results
        are equal.
    """

    operator = "ConvTranspose"

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        dilations = node.attributes.get_ints("dilations", ())
        if max(dilations, default=1) == 1 or max(node.attributes.get_ints("strides", ()), default=1) == 1:
            raise NotApplicable("it does not have both strides and dilations")
        pair = dequantizer(node.inputs[1])
        kernel = stored_constant(node.inputs[1] if pair is None else pair.inputs[0])
        if kernel is None:
            raise NotApplicable("its weights are computed, or in an external file")
        if pair is not None and len(pair.inputs) > 2 and pair.inputs[2] is not None:
            points = stored_constant(pair.inputs[2])
            if points is None or points.numpy().any():
                raise NotApplicable("a weight of zero is no zero among its integers")
        name = f"{node.outputs[0].name}.spread"
        spread = _spread(kernel.numpy(), dilations)
        weights = initializer(graph, f"{name}.weights", spread)
        if pair is not None:
            dequantize = new_node("DequantizeLinear", [weights, *pair.inputs[1:]], name=name, output=name)
            dequantize.attributes.update(pair.attributes)
            graph.insert_before(node, [dequantize])
            weights = dequantize.outputs[0]
        node.replace_input_with(1, weights)
        for attribute, sizes in (("kernel_shape", spread.shape[2:]), ("dilations", [1] * len(dilations))):
            node.attributes[attribute] = ir.AttrInt64s(attribute, sizes)


def _spread(kernel: np.ndarray, dilations: Sequence[int]) -> np.ndarray:
    """``(channels, channels, *sizes)`` to ``(channels, channels, *((size - 1) * dilation + 1))``."""
    sizes = [(size - 1) * dilation + 1 for size, dilation in zip(kernel.shape[2:], dilations, strict=True)]
    spread = np.zeros((*kernel.shape[:2], *sizes), kernel.dtype)
    spread[(slice(None), slice(None), *(slice(None, None, dilation) for dilation in dilations))] = kernel
    return spread
