"""Computes float 1x1 convolutions of 8-bit inputs with integer kernels: 16-bit weights, as two 8-bit planes."""

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

__all__ = ["LOWER", "MAX_CHANNELS", "MIN_CHANNELS", "UPPER", "SplitFloatWeights"]

UPPER, LOWER = ".upper_plane", ".lower_plane"
"""Suffixes of a convolution's name that name its two products."""

MIN_CHANNELS = 128
"""Min number of input channels for which two integer products are faster than one float product.

Measured on x86 with VNNI, two threads, 18 to 255 outputs: with 256 channels or more, half of the time or less; with
128 channels, 0.3 to 1.1 of the time; with 64, up to 1.7, since the planes have to be added.
"""

MAX_CHANNELS = 1 << 15
"""Sums of 8-bit products fit into int32: 2**15 * 255 * 127 < 2**31."""

# The upper plane rounds by half a step at most, which the lower one resolves in 127 steps to either side.
_LARGEST = 127
_STEPS = 2 * _LARGEST


class SplitFloatWeights(RewritePass):
    """Replaces a float 1x1 ``Conv`` after a ``DequantizeLinear`` of uint8 by two integer products and their sum.

    A convolution that is kept in float, such as a detector's head, usually reads 8-bit integers, because the layers
    before it are quantized. With weights ``w = s (w1 + w0 / 254)``, ``w1`` and ``w0`` of 8 bits each, it is the sum of
    two integer products. VNNI computes each of them four times as fast as a float32 one, with exact sums. The error of
    a weight is ``2**-16`` of its channel's largest one, a thirtieth of that weight's rounding error in half precision.

    Args:
        fused: the products are ONNX Runtime's ``MatMulIntegerToFloat``; else they are ``Conv`` with quantized weights.

    Preconditions: scales, zero points and weights are initializers.
    Postconditions: a Conv is replaced if it reads uint8 through a DequantizeLinear with one scale, has a 1 x 1 kernel,
        stride 1, neither pads nor groups, 128 to 32768 input channels, and constant weights that are not external.
        The output keeps its name. The products are named after the Conv, or its output if it has no name, with the
        suffixes `UPPER` and `LOWER`. Unused weights and DequantizeLinears are left to `RemoveDead`.
    """

    operator = "Conv"

    def __init__(self, *, fused: bool = True) -> None:
        super().__init__()
        self._fused = fused

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        weight = stored_constant(node.inputs[1])
        if weight is None or any(value is not None and constant(value) is None for value in node.inputs[2:]):
            raise NotApplicable("its weights are computed, or are external")
        _require_pointwise(node, weight.shape.numpy())
        source = dequantizer(node.inputs[0])
        if source is None or not _is_of_unsigned(source):
            raise NotApplicable("it does not read uint8 with one scale")
        node.name = node.name or node.outputs[0].name  # its parts are named after it
        planes = _planes(weight.numpy()[:, :, 0, 0])
        replace_node(node, _fused_products(node, source, planes) if self._fused else _quantized_products(node, planes))
        if self._fused:
            graph.opset_imports.setdefault(RUNTIME_DOMAIN, 1)


class _Plane(NamedTuple):
    """8-bit weights, ``(outputs, channels)``, and a scale for each output."""

    weights: np.ndarray
    scales: np.ndarray


def _require_pointwise(node: ir.Node, shape: Sequence[int]) -> None:
    """Raises `NotApplicable` unless the Conv only multiplies each pixel's channels by a matrix."""
    if len(shape) != 4 or tuple(shape[2:]) != (1, 1):
        raise NotApplicable("its kernel is not 1 x 1")
    if any(stride != 1 for stride in node.attributes.get_ints("strides", ())):
        raise NotApplicable("its stride is not 1")
    if any(node.attributes.get_ints("pads", ())):
        raise NotApplicable("it has pads")
    if node.attributes.get_int("group", 1) != 1:
        raise NotApplicable("it has groups")
    if not MIN_CHANNELS <= shape[1] <= MAX_CHANNELS:
        raise NotApplicable(f"two integer products do not pay off for {shape[1]} channels, or overflow")


def _is_of_unsigned(source: ir.Node) -> bool:
    scale, zero = (constant(value) for value in source.inputs[1:3])
    return scale is not None and zero is not None and zero.dtype == ir.DataType.UINT8 and not scale.shape.numpy()


def _planes(weights: np.ndarray) -> tuple[_Plane, _Plane]:
    """Splits weights, ``(outputs, channels)``, into two planes, whose sum they are."""
    matrix = weights.astype(np.float64)
    # For a row of zeros, any scale is exact.
    scale = (np.abs(matrix).max(axis=1) / _LARGEST).astype(np.float32)
    scale[scale == 0] = 1
    upper = np.rint(matrix / scale[:, None])
    # The remainder is computed from the scales as they are stored, in float32.
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
        # The weights are symmetric, without a zero point. The bias is added to one of the two products.
        inputs = [last.outputs[0], weights, scale, scales, zero, *([None, *bias] if bias and part == UPPER else [])]
        name, output = f"{node.name}{part}", f"{y}{part}"
        products.append(new_node("MatMulIntegerToFloat", inputs, name=name, output=output, domain=RUNTIME_DOMAIN))
    terms = [product.outputs[0] for product in products]
    summed = new_node("Add", terms, name=f"{node.name}.sum", output=f"{y}_nhwc")
    return [last, *products, summed, transposed(summed.outputs[0], NCHW, name=f"{node.name}.channels_first")]


def _quantized_products(node: ir.Node, planes: tuple[_Plane, _Plane]) -> list[ir.Node]:
    """Makes two convolutions of the input of ``node``, and their sum."""
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
        # OpenVINO fuses the one with the bias with the sum, and multiplies by the scales afterwards.
        bias = node.inputs[2:] if part == LOWER else ()
        products.append(new_node("Conv", [node.inputs[0], real.outputs[0], *bias], name=name, output=name))
        dequantized.append(real)
    terms = [product.outputs[0] for product in products]
    return [*dequantized, *products, new_node("Add", terms, name=f"{node.name}.sum")]
