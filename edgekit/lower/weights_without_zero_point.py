"""Subtracts the zero points of constant weights, for a backend that multiplies floats where weights have some."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph.operators import PRODUCTS
from edgekit.lower.rewriting import (
    NotApplicable,
    RewritePass,
    constant,
    dequantizer,
    initializer,
    new_node,
    stored_constant,
)

__all__ = ["WeightsWithoutZeroPoint", "has_weights_with_zero_points"]


def has_weights_with_zero_points(model: ir.Model) -> bool:
    """Whether a matrix product of integers has constant ``uint8`` weights with other zero points than 0."""
    products = (node for node in model.graph.all_nodes() if node.op_type in ("Gemm", "MatMul"))
    weights = (dequantizer(node.inputs[1]) for node in products if dequantizer(node.inputs[0]) is not None)
    return any(_is_unsigned(each) for each in weights if each is not None)


def _is_unsigned(weights: ir.Node) -> bool:
    integers, zero = constant(weights.inputs[0]), constant(weights.inputs[2])
    if integers is None or zero is None or integers.dtype != ir.DataType.UINT8:
        return False
    return bool(zero.numpy().any())


class WeightsWithoutZeroPoint(RewritePass):
    """Replaces 8-bit weights with zero points by ``int8`` weights without, where the differences fit.

    OpenVINO 2026.4 makes floats of weights whose zero points are not 0, and multiplies floats.

    Args:
        operator: a convolution or matrix product.

    Preconditions: values have their types.
    Postconditions: no such product reads a DequantizeLinear of constant integers with other zero points than 0, unless
        a difference is below -128 or above 127, the zero points are those of blocks, or the weights are in an external
        file. Names stay; results are equal.
    """

    everywhere = True

    def __init__(self, operator: str) -> None:
        super().__init__()
        assert operator in PRODUCTS
        self.operator = operator

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        weights = dequantizer(node.inputs[1])
        if weights is None:
            raise NotApplicable("its weights have no zero points")
        integers, zero = stored_constant(weights.inputs[0]), stored_constant(weights.inputs[2])
        if integers is None or zero is None:
            raise NotApplicable("its weights or their zero points are computed, or in an external file")
        difference = integers.numpy().astype(np.int16) - _along_axis(weights, zero.numpy(), len(integers.shape))
        signed = difference.astype(np.int8)
        if not zero.numpy().any() and integers.dtype == ir.DataType.INT8:
            raise NotApplicable("the zero points of its weights are 0")
        if (signed != difference).any():
            raise NotApplicable("weights less their zero points do not fit 8 bits")
        name = f"{node.outputs[0].name}.weights"
        inputs = [initializer(graph, f"{name}.integers", signed), weights.inputs[1]]
        inputs.append(initializer(graph, f"{name}.zero_point", np.zeros_like(zero.numpy(), np.int8)))
        plain = new_node("DequantizeLinear", inputs, name=name, output=name)
        plain.attributes.update(weights.attributes)
        plain.outputs[0].type, plain.outputs[0].shape = weights.outputs[0].type, weights.outputs[0].shape
        graph.insert_before(node, [plain])
        node.replace_input_with(1, plain.outputs[0])


def _along_axis(weights: ir.Node, zero: np.ndarray, rank: int) -> np.ndarray:
    if zero.ndim > 1:
        raise NotApplicable("the zero points are those of blocks")
    if zero.size == 1:
        return zero.astype(np.int16).reshape(())
    shape = [1] * rank
    shape[weights.attributes.get_int("axis", 1) % rank] = -1
    return zero.astype(np.int16).reshape(shape)
