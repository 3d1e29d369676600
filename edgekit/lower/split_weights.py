"""Float 1x1 convolutions of bytes on integer kernels: weights of 16 bits, in two planes of 8.

A convolution that is kept in float, as a detector's heads are, mostly reads bytes all the same, because what stands
before it is quantized. With weights ``w = s (w1 + w0 / 254)``, ``w1`` and ``w0`` of 8 bits each, it is the sum of two
integer products, which VNNI computes four times as fast as a float32 one each, with exact sums. A weight is then off by
``2**-16`` of its channel's largest one, a thirtieth of what half precision rounds that one by.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgekit.engine.layers import Layer
from edgekit.lower.rewriting import is_of_bytes, replace_nodes

if TYPE_CHECKING:
    import onnx

__all__ = ["LEAST_CHANNELS", "split_float_weights", "with_planes_as_one"]

DOMAIN = "com.microsoft"

UPPER, LOWER = ".upper_plane", ".lower_plane"
"""What is put behind a convolution's name to name its two products."""

# The upper plane rounds by half a step at most, which the lower one resolves in 127 steps to either side.
LARGEST = 127
STEPS = 2 * LARGEST

# Sums of products of 8 bits stay within int32: 2**15 * 255 * 127 < 2**31.
MOST_CHANNELS = 1 << 15

# Measured on x86 with VNNI, two threads, 18 to 255 outputs: from 256 channels on it takes half of the time and less,
# with 128 channels 0.3 to 1.1 of it, and with 64 up to 1.7, as planes have to be added up.
LEAST_CHANNELS = 128


def split_float_weights(model: onnx.ModelProto, *, fused: bool = True) -> int:
    """Replaces float 1x1 ``Conv`` behind a ``DequantizeLinear`` of uint8 by two integer products and their sum.

    Args:
        model: with ONNX Runtime's fused operators, or in standard ones; changed in place. Weights in files beside it
            stay as they are.
        fused: the products are ONNX Runtime's ``MatMulIntegerToFloat``; else they are ``Conv`` of quantized weights.

    Returns:
        How many were replaced.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer if not tensor.external_data}
    dequantized = {node.output[0]: node for node in graph.node if _is_of_unsigned(node, constants)}
    nodes: list[onnx.NodeProto] = []
    replaced = 0
    for node in graph.node:
        source = dequantized.get(node.input[0]) if _is_pointwise(node, constants) else None
        if source is None:
            nodes.append(node)
            continue
        node.name = node.name or node.output[0]  # its parts are named after it
        planes = _planes(node, constants[node.input[1]])
        graph.initializer.extend(_fused_weights(planes) if fused else _quantized_weights(planes))
        nodes += _fused_products(node, source) if fused else _quantized_products(node)
        replaced += 1
    if replaced:
        replace_nodes(graph, nodes)
    return replaced


def with_planes_as_one(layers: Iterable[Layer]) -> list[Layer]:
    """The layers of an engine, the two products of each one that was split as one of ``int16``."""
    found = []
    lower: dict[str, str] = {}
    for layer in layers:
        plane = next((name for name in layer.names if name.endswith((UPPER, LOWER))), "")
        if plane.endswith(LOWER):
            lower[plane.removesuffix(LOWER)] = layer.dtype
        else:
            found.append(Layer((plane,), layer.dtype) if plane else layer)
    return [_as_one(layer, lower) if layer.names[0].endswith(UPPER) else layer for layer in found]


def _as_one(upper: Layer, lower: Mapping[str, str]) -> Layer:
    name = upper.names[0].removesuffix(UPPER)
    others = [dtype for dtype in (upper.dtype, lower[name]) if dtype != "int8"]
    return Layer((name,), others[0] if others else "int16")


def _is_of_unsigned(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a DequantizeLinear turns uint8 into float32 by one scale."""
    from onnx import TensorProto

    if not is_of_bytes(node, constants):
        return False
    scale, zero = (constants[name] for name in node.input[1:])
    return zero.data_type == TensorProto.UINT8 and not scale.dims


def _is_pointwise(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether it multiplies each pixel's channels by a constant matrix, and nothing else."""
    if node.op_type != "Conv" or not all(name in constants for name in node.input[1:]):
        return False
    dims = constants[node.input[1]].dims
    if len(dims) != 4 or tuple(dims[2:]) != (1, 1) or not LEAST_CHANNELS <= dims[1] <= MOST_CHANNELS:
        return False
    attributes = {attribute.name: attribute for attribute in node.attribute}
    strides, pads = (list(attributes[name].ints) if name in attributes else [] for name in ("strides", "pads"))
    group = attributes["group"].i if "group" in attributes else 1
    return group == 1 and not any(pads) and all(stride == 1 for stride in strides)


def _planes(node: onnx.NodeProto, weight: onnx.TensorProto) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The weights' two planes by the name of each product: int8 (outputs, channels) and scales float32 (outputs)."""
    from onnx import numpy_helper

    matrix = numpy_helper.to_array(weight)[:, :, 0, 0].astype(np.float64)
    # A row of zeros has no scale of its own; any does.
    scale = (np.abs(matrix).max(axis=1) / LARGEST).astype(np.float32)
    scale[scale == 0] = 1
    upper = np.rint(matrix / scale[:, None])
    # What is left is measured from the scales as they are stored.
    fine = (scale / np.float32(STEPS)).astype(np.float32)
    lower = np.rint((matrix - upper * scale[:, None]) / fine[:, None])
    return {
        f"{node.name}{part}": (np.clip(values, -LARGEST, LARGEST).astype(np.int8), step)
        for part, values, step in ((UPPER, upper, scale), (LOWER, lower, fine))
    }


def _fused_weights(planes: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Iterator[onnx.TensorProto]:
    from onnx import numpy_helper

    for name, (integers, scale) in planes.items():
        yield numpy_helper.from_array(np.ascontiguousarray(integers.T), f"{name}.weight")
        yield numpy_helper.from_array(scale, f"{name}.scale")


def _fused_products(node: onnx.NodeProto, source: onnx.NodeProto) -> list[onnx.NodeProto]:
    from onnx import helper

    x, scale, zero = source.input
    y, bias = node.output[0], node.input[2:]
    last, terms, summed = f"{y}_nhwc_bytes", [f"{y}{UPPER}", f"{y}{LOWER}"], f"{y}_nhwc"
    products = [
        helper.make_node(
            "MatMulIntegerToFloat",
            # No zero point of the weights: they are symmetric. The bias goes with one of the two.
            [last, f"{node.name}{part}.weight", scale, f"{node.name}{part}.scale", zero, *(["", *bias] if own else [])],
            [term],
            name=f"{node.name}{part}",
            domain=DOMAIN,
        )
        for part, term, own in ((UPPER, terms[0], bool(bias)), (LOWER, terms[1], False))
    ]
    return [
        helper.make_node("Transpose", [x], [last], name=f"{node.name}.channels_last", perm=(0, 2, 3, 1)),
        *products,
        helper.make_node("Add", terms, [summed], name=f"{node.name}.sum"),
        helper.make_node("Transpose", [summed], [y], name=f"{node.name}.channels_first", perm=(0, 3, 1, 2)),
    ]


def _quantized_weights(planes: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Iterator[onnx.TensorProto]:
    from onnx import numpy_helper

    for name, (integers, scale) in planes.items():
        yield numpy_helper.from_array(integers[:, :, None, None], f"{name}.weight")
        yield numpy_helper.from_array(scale, f"{name}.scale")
        yield numpy_helper.from_array(np.zeros(scale.shape, np.int8), f"{name}.zero_point")


def _quantized_products(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Two convolutions of what ``node`` reads, and their sum."""
    from onnx import helper

    upper, lower = (f"{node.name}{part}" for part in (UPPER, LOWER))
    dequantized = [
        helper.make_node(
            "DequantizeLinear",
            [f"{name}.weight", f"{name}.scale", f"{name}.zero_point"],
            [f"{name}.real"],
            name=f"{name}.real",
            axis=0,
        )
        for name in (upper, lower)
    ]
    x, bias = node.input[0], node.input[2:]
    return [
        *dequantized,
        helper.make_node("Conv", [x, f"{upper}.real"], [upper], name=upper),
        # OpenVINO computes the one with the bias and the sum at once, and multiplies by the scales afterwards.
        helper.make_node("Conv", [x, f"{lower}.real", *bias], [lower], name=lower),
        helper.make_node("Add", [upper, lower], node.output, name=f"{node.name}.sum"),
    ]
