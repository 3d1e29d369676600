"""Inserts QuantizeLinear and DequantizeLinear nodes, from a plan and measured ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

import ml_dtypes
import numpy as np
import onnx_ir as ir

from edgekit.errors import CalibrationError
from edgekit.graph.insert import insert_behind, new_initializer, zero_point
from edgekit.graph.operators import PRODUCTS
from edgekit.graph.passes import NameNodes
from edgekit.graph.stats import CONSTANT_INPUTS, MADE_OF
from edgekit.quantize.integer_attention import part_source
from edgekit.quantize.passes.correct_bias import InputMeans, Limits, output_shift
from edgekit.quantize.passes.round_weights import rounded_weights
from edgekit.quantize.plan import Plan
from edgekit.quantize.selections import range_source
from edgekit.specs import Precision, QuantScheme

__all__ = [
    "FloatFactors",
    "QuantParameters",
    "input_limits",
    "insert_qdq",
    "parameters_from_range",
    "scales_in",
    "weight_scales",
]

Range = tuple[float, float]
NO_MEANS: Mapping[ir.Node, InputMeans] = MappingProxyType({})

# The scale of a tensor of zeros: any scale is exact, and this one is a normal float16 number.
SCALE_OF_ZEROS = 1.0 / 255.0
# Biases are divided by the product of two scales, which must be a float32 number too.
SMALLEST_SCALE = 1e-20
INT32_ROOM = 2.0**30


@dataclass(frozen=True)
class QuantParameters:
    """Scale and zero point: ``real = scale * (quantized - zero_point)``; the zero point has the quantized type."""

    scale: np.float32
    zero_point: np.ndarray


class FloatFactors(NamedTuple):
    """What a product of a quantized graph would multiply and add in float.

    Attributes:
        weight: its weight before rounding.
        bias: its bias before rounding and correction, zeros if it had none; None if quantization leaves it as it is.
    """

    weight: np.ndarray
    bias: np.ndarray | None


def parameters_from_range(lo: float, hi: float, dtype: str) -> QuantParameters:
    """Computes the scale and zero point that map ``[lo, hi]`` to the integers of ``dtype``, with zero exact.

    Args:
        lo: smallest value to represent, at most 0.
        hi: largest value to represent, at least 0.
        dtype: ``uint8`` has a zero point; ``int8`` is symmetric, from -127 to 127.
    """
    if dtype == "int8":
        return QuantParameters(_scale(max(-lo, hi), 127), np.array(0, np.int8))
    scale = _scale(hi - lo, 255)
    return QuantParameters(scale, np.array(np.clip(round(-lo / float(scale)), 0, 255), np.uint8))


def _scale(span: float, steps: int) -> np.float32:
    if span / steps < SMALLEST_SCALE:
        return np.float32(SCALE_OF_ZEROS)
    scale = np.float32(span / steps)
    # Rounded down: ONNX Runtime keeps a Clip in float if the integers exceed its limit.
    return scale if float(scale) * steps <= span else np.nextafter(scale, np.float32(0))


def input_limits(plan: Plan, ranges: Mapping[str, Range], scheme: QuantScheme) -> dict[ir.Node, Limits]:
    """Returns how `insert_qdq` will round the first input of each product of the plan, where its range is known."""
    limits = {}
    for node in plan.nodes:
        name = str(range_source(node.inputs[0]).name) if node.op_type in PRODUCTS and node.inputs[0] else ""
        if name in ranges:
            how = _parameters(ranges[name], scheme, scheme.activation_dtype)
            zero, smallest, largest = (
                int(how.zero_point),
                *((-127, 127) if how.zero_point.dtype == np.int8 else (0, 255)),
            )
            limits[node] = Limits(float(how.scale), smallest - zero, largest - zero)
    return limits


def _parameters(limits: Range, scheme: QuantScheme, dtype: str) -> QuantParameters:
    how = parameters_from_range(*limits, dtype)
    return replace(how, scale=np.float32(scales_in(how.scale, scheme.rest)))


def insert_qdq(
    graph: ir.Model,
    plan: Plan,
    ranges: Mapping[str, Range],
    scheme: QuantScheme,
    means: Mapping[ir.Node, InputMeans] = NO_MEANS,
) -> dict[str, FloatFactors]:
    """Inserts a Q/DQ pair at each tensor of the plan and quantizes the weights of its products, in place.

    Args:
        graph: the graph that ``plan`` was made from.
        plan: what is quantized.
        ranges: min and max of each tensor by name.
        scheme: element types, and whether biases stay in float.
        means: of the inputs of products; their biases are corrected.

    Returns:
        The weights and biases before quantization, by the name of the product.

    Raises:
        CalibrationError: a tensor has no range; the message names it.
    """
    parameters: dict[ir.Value, QuantParameters] = {}
    for value in plan.tensors:
        source = part_source(value) if value in plan.signed else range_source(value)
        name = source.name or ""
        if name not in ranges:
            raise CalibrationError(f"no range was measured for tensor '{name}'")
        dtype = "int8" if value in plan.signed else scheme.activation_dtype
        parameters[value] = _parameters(ranges[name], scheme, dtype)
    exact: dict[str, FloatFactors] = {}
    for node in plan.nodes:
        if node.op_type in PRODUCTS:
            factors = _quantize_weights(graph, node, parameters, scheme, means.get(node))
            exact |= {} if factors is None else {str(node.name): factors}
    quantized = {*plan.nodes, *plan.split}
    for value, how in parameters.items():
        _insert_pair(graph, value, how, quantized, everywhere=value in plan.integers)
    NameNodes()(graph)  # the graph may have contained both an 'x' and an 'x_scale' already
    return exact


def weight_scales(weight: np.ndarray, axis: int | None, bits: int) -> np.ndarray:
    """Computes the scale of each channel along ``axis``, or one for all: max magnitude / ``(2**(bits - 1) - 1)``."""
    magnitudes = np.abs(weight)
    largest = magnitudes.max() if axis is None else magnitudes.max(tuple(a for a in range(weight.ndim) if a != axis))
    scales = np.atleast_1d(largest).astype(np.float64) / (2 ** (bits - 1) - 1)
    return np.where(scales > SMALLEST_SCALE, scales, SCALE_OF_ZEROS)


def scales_in(scales: np.ndarray | np.floating, precision: Precision) -> np.ndarray:
    """Rounds scales to values that ``precision`` represents exactly, as float32, so that integers match stored scales.

    FP16 has steps of 6e-8 near zero: a channel of weights below 7e-6 uses fewer than 127 of its integers.
    """
    if precision is Precision.FP16:
        half = np.finfo(np.float16)
        fitting = np.clip(scales, half.smallest_subnormal, half.max).astype(np.float16)
        return np.where(scales > half.max, scales, fitting).astype(np.float32)
    if precision is Precision.BF16:
        return np.asarray(scales, ml_dtypes.bfloat16).astype(np.float32)
    return np.asarray(scales, np.float32)


def _quantize_weights(
    graph: ir.Model,
    node: ir.Node,
    parameters: Mapping[ir.Value, QuantParameters],
    scheme: QuantScheme,
    means: InputMeans | None,
) -> FloatFactors | None:
    """Quantizes the weight and bias of a product, and returns them as they were; None if it has no weight."""
    data, weight = node.inputs[0], node.inputs[1]
    if data is None or weight is None or weight.const_value is None:
        return None  # a product of two activations
    array = weight.const_value.numpy()
    axis = _channel_axis(node, array.ndim) if scheme.per_channel_weights else None
    scales = weight_scales(array, axis, scheme.weight_bits)
    given = node.inputs[2] if len(node.inputs) > 2 else None
    exact_bias = given.const_value.numpy() if given is not None and given.const_value is not None else None
    bias = None if scheme.float_bias else given
    biases = None
    if bias is not None and exact_bias is not None:
        # A Gemm's bias may be one number for all channels.
        biases = np.broadcast_to(exact_bias.reshape(-1), _channels(node, array.shape)).astype(np.float64)
        scales = _with_room_for(biases, scales, float(parameters[data].scale))
    scales = scales_in(scales, scheme.rest)
    largest = 2 ** (scheme.weight_bits - 1) - 1
    shape = [1] * array.ndim
    if axis is not None:
        shape[axis] = -1
    integers = _integers(node, array / scales.reshape(shape), largest)
    name = weight.name or f"{node.name}.weight"
    node.replace_input_with(1, _constant_dq(graph, node, name, integers, scales, axis))
    shift = None if means is None else output_shift(node, array, integers * scales.reshape(shape), means)
    if given is None and shift is not None:
        exact_bias = np.zeros(len(shift), np.float32)
    exact = FloatFactors(array, exact_bias)
    if scheme.float_bias:
        if shift is not None:
            _subtract_from_bias(graph, node, shift)
        return exact
    if biases is None and shift is not None:
        biases = np.zeros(len(shift))
    if biases is not None:
        biases = biases if shift is None else biases - shift
        scales = (scales.astype(np.float64) * float(parameters[data].scale)).astype(np.float32)
        scales = np.tile(scales, len(biases) // len(scales))
        integers32 = np.rint(biases / scales).astype(np.int32)
        name = (bias.name if bias is not None else None) or f"{node.name}.bias"
        _set_bias(node, _constant_dq(graph, node, name, integers32, scales, 0))
    return exact


def _subtract_from_bias(graph: ir.Model, node: ir.Node, shift: np.ndarray) -> None:
    """Gives ``node`` a float bias of its own, smaller by ``shift``."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    before = bias.const_value.numpy() if bias is not None and bias.const_value is not None else np.float32(0)
    name = (bias.name if bias is not None else None) or f"{node.name}.bias"
    _set_bias(node, new_initializer(graph, f"{name}_corrected", (before - shift).astype(np.float32)))


def _set_bias(node: ir.Node, bias: ir.Value) -> None:
    if len(node.inputs) < 3 or node.inputs[2] is None:
        # It is a correction, and no parameter of the model.
        constants = [*filter(None, node.metadata_props.get(CONSTANT_INPUTS, "").split(",")), "2"]
        node.metadata_props[CONSTANT_INPUTS] = ",".join(constants)
    node.resize_inputs(3)
    node.replace_input_with(2, bias)


def _integers(node: ir.Node, scaled: np.ndarray, largest: int) -> np.ndarray:
    if node.op_type == "Conv":
        return rounded_weights(scaled, largest)
    return np.asarray(np.clip(np.rint(scaled), -largest, largest), np.int8)


def _with_room_for(biases: np.ndarray, scales: np.ndarray, input_scale: float) -> np.ndarray:
    """Increases weight scales until biases fit into 32 bits, for channels with tiny weights and a large bias."""
    largest = np.abs(biases).reshape(-1, len(scales)).max(0)
    return np.asarray(np.maximum(scales, largest / (input_scale * INT32_ROOM)))


def _channel_axis(node: ir.Node, rank: int) -> int | None:
    """Returns the output channel axis of a weight; None if per-channel scales do not help."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    # Batched matrices: QLinearMatMul takes per-column scales for a single matrix only.
    return 1 if rank == 2 else None


def _channels(node: ir.Node, shape: tuple[int, ...]) -> int:
    """Returns the number of bias elements of ``node``, with a weight of this shape."""
    groups = node.attributes.get_int("group", 1) if node.op_type == "ConvTranspose" else 1
    return shape[_channel_axis(node, len(shape)) or 0] * groups


def _constant_dq(
    graph: ir.Model, node: ir.Node, name: str, integers: np.ndarray, scales: np.ndarray, axis: int | None
) -> ir.Value:
    """Inserts a DequantizeLinear of new initializers before ``node``: one per node, since weights may be shared."""
    stem = f"{name}_of_{node.name}" if f"{name}_quantized" in graph.graph.initializers else name
    scale = scales if axis is not None else scales.reshape(())
    inputs = [new_initializer(graph, f"{stem}_quantized", integers), new_initializer(graph, f"{stem}_scale", scale)]
    if integers.dtype == np.int8:
        inputs.append(zero_point(graph, np.int8, scale.shape, 0))
    attributes = {"axis": axis} if axis is not None else None
    dequantize = ir.node("DequantizeLinear", inputs, attributes=attributes, name=f"{stem}_dequantize")
    known = graph.graph.initializers.get(name)
    dequantize.metadata_props[MADE_OF] = (known.metadata_props.get(MADE_OF) if known is not None else None) or name
    graph.graph.insert_before(node, dequantize)
    return _described(dequantize, f"{stem}_dequantized", ir.DataType.FLOAT, ir.Shape(integers.shape))


def _described(node: ir.Node, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> ir.Value:
    """Returns the output of a new node, with the name, type and shape set."""
    value = node.outputs[0]
    value.name, value.type, value.shape = name, ir.TensorType(dtype), shape
    return value


def _insert_pair(
    graph: ir.Model, value: ir.Value, how: QuantParameters, quantized: set[ir.Node], *, everywhere: bool
) -> None:
    uses = [(use.node, use.idx) for use in value.uses()]
    stem = value.name
    parameters = [
        new_initializer(graph, f"{stem}_scale", np.array(how.scale)),
        zero_point(graph, how.zero_point.dtype, (), int(how.zero_point)),
    ]
    quantize = ir.node("QuantizeLinear", [value, *parameters], name=f"{stem}_quantize")
    integer = _described(quantize, f"{stem}_quantized", ir.DataType.from_numpy(how.zero_point.dtype), value.shape)
    dequantize = ir.node("DequantizeLinear", [integer, *parameters], name=f"{stem}_dequantize")
    output = _described(dequantize, f"{stem}_dequantized", ir.DataType.FLOAT, value.shape)
    insert_behind(graph.graph, value, [quantize, dequantize])
    for node, index in uses:
        if everywhere or node in quantized:
            node.replace_input_with(index, output)
    if everywhere and value.is_graph_output():
        _replace_output(graph, value, output)


def _replace_output(graph: ir.Model, value: ir.Value, output: ir.Value) -> None:
    """Makes ``output`` the graph output in place of ``value``, with its name."""
    name = value.name
    value.name = f"{name}_float"
    output.name = name
    outputs = graph.graph.outputs
    outputs[outputs.index(value)] = output
