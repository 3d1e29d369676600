"""Rounds quantized 8-bit weights to 7 bits, for processors whose kernels add two 8-bit products in 16 bits."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph.operators import PRODUCTS
from edgekit.lower.rewriting import NotApplicable, RewritePass, constant, initializer, new_node, replace_node

__all__ = ["LARGEST", "NarrowWeights"]

LARGEST = 63
"""The largest 7-bit weight: ``2 * 255 * 63`` fits into 16 bits, ``2 * 255 * 127`` does not."""

_BYTES = frozenset({ir.DataType.INT8, ir.DataType.UINT8})
_LAYOUT = frozenset({"Reshape", "Transpose", "Unsqueeze"})


class NarrowWeights(RewritePass):
    """Replaces ``DequantizeLinear`` of weights beyond `LARGEST` by one of 7-bit weights with a larger scale.

    x86 without VNNI multiplies unsigned by signed bytes with ``vpmaddubsw``, which adds two products in 16 bits and
    saturates. EdgeKit quantizes to 7 bits there, but a graph that was quantized elsewhere has 8. The noise of rounding
    is that of 7-bit weights; saturated sums are wrong by up to half of their value.

    Attributes:
        count: number of weights that were replaced.

    Preconditions: scales and zero points are initializers.
    Postconditions: weights of convolutions and matrix products that are 8-bit constants, or float constants through a
        QuantizeLinear, are int8 without a zero point and at most `LARGEST`. Channels whose weights are all that small
        keep their values. Weights in external files are read. Weights with scales per block stay.
    """

    operator = "DequantizeLinear"

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        if not _feeds_product(node.outputs[0]):
            raise NotApplicable("no convolution or matrix product reads it")
        weights = _weights(node)
        shape, scale, zero = _parameters(node, weights.ndim)
        values = _integers(node, weights, scale, zero) - zero
        others = None if scale.size == 1 else tuple(axis for axis in range(values.ndim) if scale.shape[axis] == 1)
        largest = np.abs(values).max(axis=others, keepdims=True, initial=0)
        if largest.max(initial=0) <= LARGEST:
            raise NotApplicable("its weights have 7 bits")
        factor = np.maximum(largest, LARGEST) / LARGEST
        name = node.outputs[0].name
        scales = (scale * factor).astype(np.float32).reshape(shape)
        narrow = [
            initializer(graph, f"{name}.narrow", np.rint(values / factor).astype(np.int8)),
            initializer(graph, f"{name}.narrow_scale", scales),
            initializer(graph, f"{name}.narrow_zero_point", np.zeros(shape, np.int8)),
        ]
        new = new_node("DequantizeLinear", narrow, name=node.name)
        new.attributes.update(node.attributes)
        replace_node(node, [new])
        self.count += 1


def _feeds_product(value: ir.Value) -> bool:
    """Whether a convolution or matrix product reads ``value``, directly or in another layout."""
    return any(
        use.node.op_type in PRODUCTS or (use.node.op_type in _LAYOUT and _feeds_product(use.node.outputs[0]))
        for use in value.uses()
    )


def _weights(node: ir.Node) -> np.ndarray:
    """Returns the constant that ``node`` dequantizes: 8-bit integers, or floats through a QuantizeLinear."""
    source = node.inputs[0]
    weights = constant(source)
    if weights is not None and weights.dtype in _BYTES:
        return np.asarray(weights.numpy())
    quantizer = source.producer() if source is not None else None
    if quantizer is not None and quantizer.op_type == "QuantizeLinear":
        floats = constant(quantizer.inputs[0])
        if floats is not None and list(quantizer.inputs[1:]) == list(node.inputs[1:]):
            return np.asarray(floats.numpy(), np.float64)
    raise NotApplicable("its input is not an 8-bit constant")


def _parameters(node: ir.Node, rank: int) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
    """Returns the shape of a node's scale, and scale and zero point in a shape that is broadcast to its weights."""
    scale, zero = constant(node.inputs[1]), _zero(node)
    if scale is None or scale.dtype != ir.DataType.FLOAT:
        raise NotApplicable("its scale is not a float32 constant")
    shape = tuple(scale.shape.numpy())
    if len(shape) > 1:
        raise NotApplicable("its scales are per block")
    around = [1] * rank
    if shape:
        around[node.attributes.get_int("axis", 1)] = shape[0]
    zeros = np.zeros(shape, np.int32) if zero is None else zero.astype(np.int32)
    return shape, scale.numpy().astype(np.float64).reshape(around), zeros.reshape(around)


def _zero(node: ir.Node) -> np.ndarray | None:
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return None
    zero = constant(node.inputs[2])
    if zero is None:
        raise NotApplicable("its zero point is not constant")
    return np.asarray(zero.numpy())


def _integers(node: ir.Node, weights: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    if weights.dtype.kind != "f":
        return weights.astype(np.int32)
    given = _zero(node)
    limits = np.iinfo(np.uint8 if given is None else given.dtype)
    return np.asarray(np.clip(np.rint(weights / scale) + zero, limits.min, limits.max), np.int32)
