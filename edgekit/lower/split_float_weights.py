"""Computes float 1x1 convolutions of bytes on integer kernels: weights of 16 bits, in two planes of 8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import (
    NCHW,
    NHWC,
    RUNTIME_DOMAIN,
    NotApplicable,
    RewritePass,
    constant,
    dequantizer,
    initializer,
    new_node,
    replace_node,
    stored_constant,
    transposed,
)

__all__ = ["LEAST_CHANNELS", "LOWER", "MOST_CHANNELS", "UPPER", "SplitFloatWeights"]

UPPER, LOWER = ".upper_plane", ".lower_plane"
"""What is put behind a convolution's name to name its two products."""

LEAST_CHANNELS = 128
"""Channels of the input from which on two integer products are faster than one of floats.

Measured on x86 with VNNI, two threads, 18 to 255 outputs: from 256 channels on it takes half of the time and less, with
128 channels 0.3 to 1.1 of it, and with 64 up to 1.7, as planes have to be added up.
"""

MOST_CHANNELS = 1 << 15
"""Sums of products of 8 bits stay within int32: 2**15 * 255 * 127 < 2**31."""

# The upper plane rounds by half a step at most, which the lower one resolves in 127 steps to either side.
_LARGEST = 127
_STEPS = 2 * _LARGEST


class SplitFloatWeights(RewritePass):
    """Replaces a float 1x1 ``Conv`` behind a ``DequantizeLinear`` of uint8 by two integer products and their sum.

    A convolution that is kept in float, as a detector's heads are, mostly reads bytes all the same, because what stands
    before it is quantized. With weights ``w = s (w1 + w0 / 254)``, ``w1`` and ``w0`` of 8 bits each, it is the sum of
    two integer products, which VNNI computes four times as fast as a float32 one each, with exact sums. A weight is
    then off by ``2**-16`` of its channel's largest one, a thirtieth of what half precision rounds that one by.

    Args:
        fused: the products are ONNX Runtime's ``MatMulIntegerToFloat``; else they are ``Conv`` of quantized weights.

    Preconditions: scales, zero points and weights are initializers.
    Postconditions: a Conv is replaced if it reads uint8 through a DequantizeLinear of one scale, has a kernel of 1 x 1,
        stride 1, neither pads nor groups, 128 to 32768 input channels, and constant weights in the graph's own file.
        The output keeps its name. The products are named after the Conv, or its output if it has no name, with `UPPER`
        and `LOWER` behind it. Weights and DequantizeLinears that nothing reads any more are left to `RemoveDead`.
    """

    operator = "Conv"

    def __init__(self, *, fused: bool = True) -> None:
        super().__init__()
        self._fused = fused

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        weight = stored_constant(node.inputs[1])
        if weight is None or any(value is not None and constant(value) is None for value in node.inputs[2:]):
            raise NotApplicable("its weights are computed, or lie in another file")
        _require_pointwise(node, weight.shape.numpy())
        source = dequantizer(node.inputs[0])
        if source is None or not _is_of_unsigned(source):
            raise NotApplicable("it does not read uint8 of one scale")
        node.name = node.name or node.outputs[0].name  # its parts are named after it
        planes = _planes(weight.numpy()[:, :, 0, 0])
        replace_node(node, _fused_products(node, source, planes) if self._fused else _quantized_products(node, planes))
        if self._fused:
            graph.opset_imports.setdefault(RUNTIME_DOMAIN, 1)


class _Plane(NamedTuple):
    """Weights of 8 bits, (outputs, channels), and a scale for each output."""

    weights: np.ndarray
    scales: np.ndarray


def _require_pointwise(node: ir.Node, shape: Sequence[int]) -> None:
    """Raises `NotApplicable` unless it multiplies each pixel's channels by a matrix, and does nothing else."""
    if len(shape) != 4 or tuple(shape[2:]) != (1, 1):
        raise NotApplicable("its kernel is not 1 x 1")
    if any(stride != 1 for stride in node.attributes.get_ints("strides", ())):
        raise NotApplicable("its stride is not 1")
    if any(node.attributes.get_ints("pads", ())):
        raise NotApplicable("it has pads")
    if node.attributes.get_int("group", 1) != 1:
        raise NotApplicable("it has groups")
    if not LEAST_CHANNELS <= shape[1] <= MOST_CHANNELS:
        raise NotApplicable(f"two integer products do not pay for {shape[1]} channels, or overflow")


def _is_of_unsigned(source: ir.Node) -> bool:
    scale, zero = (constant(value) for value in source.inputs[1:3])
    return scale is not None and zero is not None and zero.dtype == ir.DataType.UINT8 and not scale.shape.numpy()


def _planes(weights: np.ndarray) -> tuple[_Plane, _Plane]:
    """The two planes that weights, (outputs, channels), are the sum of."""
    matrix = weights.astype(np.float64)
    # A row of zeros has no scale of its own; any does.
    scale = (np.abs(matrix).max(axis=1) / _LARGEST).astype(np.float32)
    scale[scale == 0] = 1
    upper = np.rint(matrix / scale[:, None])
    # What is left is measured from the scales as they are stored.
    fine = (scale / np.float32(_STEPS)).astype(np.float32)
    lower = np.rint((matrix - upper * scale[:, None]) / fine[:, None])
    first, second = (np.clip(values, -_LARGEST, _LARGEST).astype(np.int8) for values in (upper, lower))
    return _Plane(first, scale), _Plane(second, fine)


def _fused_products(node: ir.Node, source: ir.Node, planes: tuple[_Plane, _Plane]) -> list[ir.Node]:
    assert node.graph is not None
    x, scale, zero = source.inputs
    y, bias = node.outputs[0].name, [value for value in node.inputs[2:] if value is not None]
    last = transposed(x, NHWC, name=f"{node.name}.channels_last", output=f"{y}_nhwc_bytes")
    products = []
    for part, plane in zip((UPPER, LOWER), planes, strict=True):
        weights = initializer(node.graph, f"{node.name}{part}.weight", np.ascontiguousarray(plane.weights.T))
        scales = initializer(node.graph, f"{node.name}{part}.scale", plane.scales)
        # No zero point of the weights: they are symmetric. The bias goes with one of the two.
        inputs = [last.outputs[0], weights, scale, scales, zero, *([None, *bias] if bias and part == UPPER else [])]
        name, output = f"{node.name}{part}", f"{y}{part}"
        products.append(new_node("MatMulIntegerToFloat", inputs, name=name, output=output, domain=RUNTIME_DOMAIN))
    terms = [product.outputs[0] for product in products]
    summed = new_node("Add", terms, name=f"{node.name}.sum", output=f"{y}_nhwc")
    return [last, *products, summed, transposed(summed.outputs[0], NCHW, name=f"{node.name}.channels_first")]


def _quantized_products(node: ir.Node, planes: tuple[_Plane, _Plane]) -> list[ir.Node]:
    """Two convolutions of what ``node`` reads, and their sum."""
    assert node.graph is not None
    dequantized, products = [], []
    for part, plane in zip((UPPER, LOWER), planes, strict=True):
        name = f"{node.name}{part}"
        weights = initializer(node.graph, f"{name}.weight", plane.weights[:, :, None, None])
        scales = initializer(node.graph, f"{name}.scale", plane.scales)
        zeros = initializer(node.graph, f"{name}.zero_point", np.zeros(plane.scales.shape, np.int8))
        real = new_node(
            "DequantizeLinear", [weights, scales, zeros], {"axis": 0}, name=f"{name}.real", output=f"{name}.real"
        )
        # OpenVINO computes the one with the bias and the sum at once, and multiplies by the scales afterwards.
        bias = node.inputs[2:] if part == LOWER else ()
        products.append(new_node("Conv", [node.inputs[0], real.outputs[0], *bias], name=name, output=name))
        dequantized.append(real)
    terms = [product.outputs[0] for product in products]
    return [*dequantized, *products, new_node("Add", terms, name=f"{node.name}.sum")]
