"""Replaces biases of 8 and 16 bits by floats, for ONNX Runtime, whose integer products take no such biases."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, initializer, stored_constant

__all__ = ["FloatSmallBiases"]

_SMALL = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16})


class FloatSmallBiases(RewritePass):
    """Replaces a bias in 8 or 16 bits by the floats that it stands for.

    AMD Quark writes biases so (``XINT8``, ``VINT8``). ONNX Runtime 1.32 computes in float a product with such a bias.
    Floats it rounds to the 32-bit integers that its sums have.

    Args:
        operator: ``Conv`` or ``Gemm``.

    Preconditions: the opset is 13 or newer.
    Postconditions: the bias of no such product is a DequantizeLinear of constants of 8 or 16 bits, unless those are in
        an external file. Names stay; results are equal, up to the rounding of the product of integer and scale.
    """

    everywhere = True

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = operator

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        source = bias.producer() if bias is not None else None
        if bias is None or source is None or source.op_type != "DequantizeLinear":
            raise NotApplicable("it has no bias of integers")
        integers, scale, zero = [
            stored_constant(source.inputs[index]) if index < len(source.inputs) else None for index in range(3)
        ]
        if integers is None or scale is None or integers.dtype not in _SMALL or integers.numpy().ndim != 1:
            raise NotApplicable("its bias has no integers of 8 or 16 bits, one for each channel")
        steps = integers.numpy().astype(np.int32)
        if zero is not None:
            steps = steps - zero.numpy()
        floats = (steps * scale.numpy()).astype(scale.numpy().dtype)
        node.replace_input_with(2, initializer(graph, f"{node.outputs[0].name}.bias", floats))
