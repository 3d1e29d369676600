"""Why products stay in float on a target: what its kernels do not take, or compute slower on integers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgekit.graph.operators import PRODUCTS
from edgekit.quantize.kernel_limits import limit_of
from edgekit.specs import QuantScheme, SlowConvolution

if TYPE_CHECKING:
    from typing import TypeGuard

__all__ = ["FASTER_IN_FLOAT", "fused_reader", "fuses", "is_activation", "why_float_product"]

STEM_DEPTH = 2
MIN_DOWNSAMPLING = 4

FASTER_IN_FLOAT = "the target computes a convolution of so few channels a group faster in float"


def why_float_product(node: ir.Node, scheme: QuantScheme) -> str | None:
    """Returns why a convolution or a matrix product stays in float on a target; None where it does not."""
    data, weight = node.inputs[0], node.inputs[1]
    if any(value is None or value.dtype != ir.DataType.FLOAT for value in (data, weight)):
        return "its inputs are not float32"
    assert data is not None and weight is not None
    if reason := _why_float_data(data):
        return reason
    if weight.const_value is None:
        return _why_float_computed(node, scheme) or limit_of(node, scheme.limits)
    if len(weight.const_value.shape) < 2:
        return "its weights are a vector"
    if node.op_type == "Gemm" and (
        node.attributes.get_float("alpha", 1.0) != 1.0
        or node.attributes.get_float("beta", 1.0) != 1.0
        or node.attributes.get_int("transA", 0) != 0
    ):
        return "it scales or transposes its factors"
    if node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) != 1:
        return "it is a grouped transposed convolution"  # OpenVINO 2026.4 computes it in float, with any scales
    if node.op_type == "Conv" and any(_is_slow(node, each) for each in scheme.slow_convolutions):
        return FASTER_IN_FLOAT
    if not scheme.float_bias and not _has_fitting_bias(node):
        return "its bias is not one constant per channel"
    if _is_stem(node, scheme):
        return f"it is one of the first convolutions and reads {weight.const_value.shape.numpy()[1]} channels"
    return limit_of(node, scheme.limits)


def _is_slow(node: ir.Node, slow: SlowConvolution) -> bool:
    weight, groups = node.inputs[1], node.attributes.get_int("group", 1)
    if weight is None or weight.const_value is None:
        return False
    outputs, channels, *window = weight.const_value.shape.numpy()
    kind = "plain" if groups == 1 else "depthwise" if channels == 1 and outputs == groups else "grouped"
    return kind == slow.kind and channels <= slow.channels and math.prod(window) >= slow.window


def _why_float_data(data: ir.Value) -> str | None:
    if data.const_value is not None:
        return "its first factor is constant"
    if data.shape is not None and len(data.shape) < 2:
        return "its input is a vector"  # OpenVINO 2026.4 returns a matrix of one row, with Q/DQ
    return None


def _is_stem(node: ir.Node, scheme: QuantScheme, depth: int = STEM_DEPTH) -> bool:
    """Whether each path from an input to ``node`` has at most one other convolution, and all read few channels.

    A convolution whose output is quantized at full resolution is not a stem: on YOLOv3 this cost the 0.8 ms that was
    gained. Nor is one whose activation function is the saturation of Q, at no cost: in float, the first convolution
    of a ResNet-18 took 0.8 ms more of 6, and the INT8 SNR was the same (37.6 dB and 37.8 dB).
    """
    weight = node.inputs[1]
    if depth == 0 or node.op_type != "Conv" or weight is None or weight.const_value is None:
        return False
    if weight.const_value.shape.numpy()[1] > scheme.stem_channels or node.attributes.get_int("group", 1) != 1:
        return False
    if not _shrinks(node) or (scheme.quantize_outputs and fused_reader(node.outputs[0], scheme) is not None):
        return False
    return all(_is_stem(before, scheme, depth - 1) for before in _products_before(node))


def _products_before(node: ir.Node) -> set[ir.Node]:
    """Returns the products whose results ``node`` reads without another product between."""
    found: set[ir.Node] = set()
    seen = set(node.inputs[:1])
    stack = list(seen)
    while stack:
        value = stack.pop()
        producer = value.producer() if value is not None else None
        if producer is not None and producer.op_type in PRODUCTS:
            found.add(producer)
        elif producer is not None:
            # Shapes are computed from activations too, but are no activations.
            new = {source for source in producer.inputs if is_activation(source)} - seen
            seen |= new
            stack += new
    return found


def _shrinks(node: ir.Node) -> bool:
    """Whether a convolution, or the pooling after it, leaves a quarter of the pixels or fewer to be quantized."""
    while True:
        if math.prod(node.attributes.get_ints("strides", ())) >= MIN_DOWNSAMPLING:
            return True
        readers = [use.node for use in node.outputs[0].uses()]
        if len(readers) != 1 or readers[0].op_type in PRODUCTS | {"Add", "Concat"} or not readers[0].outputs:
            return False
        node = readers[0]


def _why_float_computed(node: ir.Node, scheme: QuantScheme) -> str | None:
    if node.op_type != "MatMul":
        return "its weights are computed"
    # Targets with Q/DQ at inputs only have their own kernels for attention: outside of those, OpenVINO 2026.4 computes
    # a product of two activations in float, with or without Q/DQ.
    return None if scheme.quantize_outputs else "it multiplies two activations"


def _has_fitting_bias(node: ir.Node) -> bool:
    """Whether the bias, if any, can be an integer at the scale of its channel."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return True
    # A Gemm may add a whole matrix, or one number per row.
    return bias.const_value is not None and all(size == 1 for size in bias.const_value.shape.numpy()[:-1])


def fused_reader(value: ir.Value, scheme: QuantScheme) -> ir.Node | None:
    """Returns the activation function that the target fuses with the producer of ``value``."""
    readers = [use.node for use in value.uses()]
    producer = value.producer()
    if len(readers) != 1 or value.is_graph_output() or producer is None or producer.op_type not in PRODUCTS | {"Add"}:
        return None
    return readers[0] if fuses(readers[0], scheme) else None


def fuses(node: ir.Node, scheme: QuantScheme) -> bool:
    """Whether the target fuses the activation function ``node`` with the product before it."""
    if node.op_type == "Clip" and scheme.quantize_outputs:
        # The saturation of Q replaces it, and its lower limit is exact at 0 only.
        lower_limit = node.inputs[1] if len(node.inputs) > 1 else None
        return "Clip" in scheme.fused_activations and _is_zero(lower_limit)
    return node.op_type in scheme.fused_activations


def _is_zero(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and not value.const_value.numpy().any()


def is_activation(value: ir.Value | None) -> TypeGuard[ir.Value]:
    return value is not None and value.const_value is None and value.dtype == ir.DataType.FLOAT
