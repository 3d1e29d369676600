"""Replaces fused operators of ONNX Runtime by ONNX's own."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgekit.graph.passes.decompose_attention import ATTENTION
from edgekit.graph.passes.decompose_grouped_attention import GROUPED_ATTENTION
from edgekit.graph.passes.decompose_rotary import ROTARY
from edgekit.graph.passes.decomposing import DecomposePass, Decomposition, Parts, input_of, is_used

__all__ = ["DecomposeContrib"]

_SCALES = (6, 11)
"""Where the scale and the zero point of an integer input of ``QEmbedLayerNormalization`` are, behind that input."""
_ACTIVATION_ATTRIBUTES = ("activation", "activation_params", "activation_alpha", "activation_beta", "activation_gamma")


class DecomposeContrib(DecomposePass):
    """Replaces fused operators of ONNX Runtime by the ONNX operators that they were made from.

    Files that ONNX Runtime or its transformer optimizer has written contain them. Other targets do not know them, and
    calibration and quantization work on ONNX's operators. The formulas are in ONNX Runtime's
    ``docs/ContribOperators.md``.

    Preconditions: the opset is 20 or newer, which has Gelu.
    Postconditions: a product that replaces an operator has its name. Operators that are not in the table stay, and so
        do those with outputs or options that ONNX has no operator for, or with an unknown rank where it matters.
    """

    def __init__(self) -> None:
        super().__init__("com.microsoft", {**_TABLE, **ATTENTION, **GROUPED_ATTENTION, **ROTARY})


def _fused_conv(node: ir.Node, parts: Parts) -> Sequence[ir.Value | None] | None:
    total = parts.product("Conv", node, [*node.inputs[:2], input_of(node, 2)], _ACTIVATION_ATTRIBUTES)
    if (added := input_of(node, 3)) is not None:
        total = parts.add("Add", total, added)
    return _activated(node, parts, total, node.attributes.get_floats("activation_params", ()))


def _fused_gemm(node: ir.Node, parts: Parts) -> Sequence[ir.Value | None] | None:
    total = parts.product("Gemm", node, node.inputs, _ACTIVATION_ATTRIBUTES)
    names = ("activation_alpha", "activation_beta")
    given = [node.attributes.get_float(name, 0.0) for name in names if name in node.attributes]
    return _activated(node, parts, total, given)


def _activated(
    node: ir.Node, parts: Parts, value: ir.Value, params: Sequence[float]
) -> Sequence[ir.Value | None] | None:
    """Adds the activation function that the attributes of ``node`` name."""
    name = node.attributes.get_string("activation", "")
    if name in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign"):
        return [parts.add(name, value)]
    if name == "Clip" and len(params) == 2:
        return [parts.add(name, value, parts.number(params[0]), parts.number(params[1]))]
    if name in ("LeakyRelu", "Elu", "ThresholdedRelu", "HardSigmoid"):
        return [parts.add(name, value, **dict(zip(("alpha", "beta"), params, strict=False)))]
    return None if name else [value]


def _fused_matmul(node: ir.Node, parts: Parts) -> Sequence[ir.Value | None] | None:
    if any(node.attributes.get_int(name, 0) for name in ("transBatchA", "transBatchB")):
        return None
    factors = []
    for value, name in zip(node.inputs, ("transA", "transB"), strict=True):
        turned = _turned(value, parts) if node.attributes.get_int(name, 0) else value
        if turned is None:
            return None
        factors.append(turned)
    product = parts.add("MatMul", *factors)
    alpha = node.attributes.get_float("alpha", 1.0)
    return [product if alpha == 1.0 else parts.add("Mul", product, parts.number(alpha))]


def _turned(value: ir.Value | None, parts: Parts) -> ir.Value | None:
    """Swaps the last two axes; None if the rank is unknown."""
    constant = value.const_value if value is not None else None
    shape = constant.shape if constant is not None else value.shape if value is not None else None
    if value is None or shape is None:
        return None
    order = list(range(len(shape)))
    order[-2:] = reversed(order[-2:])
    return parts.add("Transpose", value, perm=order)


def _gelu(node: ir.Node, parts: Parts) -> Sequence[ir.Value | None] | None:
    return [parts.add("Gelu", _biased(node, 1, parts), approximate="tanh" if node.op_type == "FastGelu" else "none")]


def _biased(node: ir.Node, index: int, parts: Parts, value: ir.Value | None = None) -> ir.Value | None:
    value = node.inputs[0] if value is None else value
    bias = input_of(node, index)
    return value if bias is None else parts.add("Add", value, bias)


def _quick_gelu(node: ir.Node, parts: Parts) -> Sequence[ir.Value | None] | None:
    value = node.inputs[0]
    scaled = parts.add("Mul", value, parts.number(node.attributes.get_float("alpha", 1.702)))
    return [parts.add("Mul", value, parts.add("Sigmoid", scaled))]


def _bias_add(node: ir.Node, parts: Parts) -> Sequence[ir.Value | None] | None:
    return [parts.add("Add", parts.add("Add", node.inputs[0], node.inputs[1]), node.inputs[2])]


def _skip_layer_norm(node: ir.Node, parts: Parts) -> Sequence[ir.Value | None] | None:
    if is_used(node, 1) or is_used(node, 2):
        return None
    total = _biased(node, 4, parts, parts.add("Add", node.inputs[0], node.inputs[1]))
    epsilon = node.attributes.get_float("epsilon", 1e-12)
    result = parts.add("LayerNormalization", total, node.inputs[2], input_of(node, 3), axis=-1, epsilon=epsilon)
    return [result, None, None, total]


def _layer_norm(node: ir.Node, parts: Parts) -> Sequence[ir.Value | None] | None:
    result = parts.product("LayerNormalization", node, node.inputs, ())
    norm = parts.nodes[-1]
    norm.resize_outputs(len(node.outputs))
    for index, output in enumerate(norm.outputs[1:], 1):
        output.name = f"{result.name}.{index}"
    return norm.outputs


def _embed_layer_norm(node: ir.Node, parts: Parts) -> Sequence[ir.Value | None] | None:
    ids, segments, words, positions, of_segments, scale, shift = node.inputs[:7]
    rows = parts.add("Gather", words, ids)
    return _embedded(node, parts, rows, segments, (positions, of_segments), (scale, shift), input_of(node, 8))


def _embedded(
    node: ir.Node,
    parts: Parts,
    rows: ir.Value,
    segments: ir.Value | None,
    tables: Sequence[ir.Value | None],
    norm: Sequence[ir.Value | None],
    given_positions: ir.Value | None,
) -> Sequence[ir.Value | None] | None:
    """Adds positions and segments to the rows of the words, and their norm."""
    ids, mask, (positions, of_segments) = node.inputs[0], input_of(node, 7), tables
    zero, one = (parts.add("Constant", value_ints=[number]) for number in (0, 1))
    if given_positions is None:
        length = parts.add("Shape", ids, start=1, end=2)
        placed = parts.add("Slice", positions, zero, length, zero)
    else:
        placed = parts.add("Gather", positions, given_positions)
    total = parts.add("Add", rows, placed)
    if of_segments is not None and segments is not None:
        total = parts.add("Add", total, parts.add("Gather", of_segments, segments))
    epsilon = node.attributes.get_float("epsilon", 1e-12)
    result = parts.add("LayerNormalization", total, *norm, axis=-1, epsilon=epsilon)
    lengths = None
    if is_used(node, 1):
        if mask is None:
            return None
        ones = parts.add("Cast", mask, to=ir.DataType.INT32.value)
        lengths = parts.add("ReduceSum", ones, one, keepdims=0)
        lengths.shape = ir.Shape(mask.shape[:1]) if mask.shape is not None else None
    return [result, lengths, total]


def _quantized_embed_layer_norm(node: ir.Node, parts: Parts) -> Sequence[ir.Value | None] | None:
    """The tables and the norm's constants are integers; only the rows that are read of the large one become floats."""
    ids, segments = node.inputs[:2]
    words, positions, of_segments, scale, shift = (
        [input_of(node, index), *(input_of(node, index + offset) for offset in _SCALES)] for index in range(2, 7)
    )
    rows = parts.add("DequantizeLinear", parts.add("Gather", words[0], ids), *words[1:])
    tables = [
        parts.add("DequantizeLinear", *each) if each[0] is not None else None for each in (positions, of_segments)
    ]
    norm = [parts.add("DequantizeLinear", *each) for each in (scale, shift)]
    return _embedded(node, parts, rows, segments, tables, norm, None)


def _skip_rms_norm(node: ir.Node, parts: Parts) -> Sequence[ir.Value | None] | None:
    if is_used(node, 1) or is_used(node, 2):
        return None
    total = _biased(node, 3, parts, parts.add("Add", node.inputs[0], node.inputs[1]))
    epsilon = node.attributes.get_float("epsilon", 1e-12)
    return [_rms_norm_of(total, node.inputs[2], [-1], epsilon, parts)[0], None, None, total]


def _rms_norm(node: ir.Node, parts: Parts) -> Sequence[ir.Value | None] | None:
    total, axis = node.inputs[0], node.attributes.get_int("axis", -1)
    rank = len(total.shape) if total is not None and total.shape is not None else 0
    if axis != -1 and not rank:
        return None
    axes = [-1] if axis == -1 else list(range(axis % rank - rank, 0))
    return _rms_norm_of(total, node.inputs[1], axes, node.attributes.get_float("epsilon", 1e-5), parts)


def _rms_norm_of(
    total: ir.Value | None, scale: ir.Value | None, axes: Sequence[int], epsilon: float, parts: Parts
) -> tuple[ir.Value, ir.Value]:
    """Returns the normalized value, and the inverse of what it was divided by."""
    last = parts.add("Constant", value_ints=axes)
    mean = parts.add("ReduceMean", parts.add("Mul", total, total), last, keepdims=1)
    size = parts.add("Sqrt", parts.add("Add", mean, parts.number(epsilon)))
    normal = parts.add("Div", total, size)
    return parts.add("Mul", normal, scale), parts.add("Reciprocal", size)


_TABLE: dict[str, Decomposition] = {
    "BiasAdd": _bias_add,
    "BiasGelu": _gelu,
    "EmbedLayerNormalization": _embed_layer_norm,
    "FastGelu": _gelu,
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_matmul,
    "Gelu": _gelu,
    "LayerNormalization": _layer_norm,
    "QEmbedLayerNormalization": _quantized_embed_layer_norm,
    "QuickGelu": _quick_gelu,
    "SimplifiedLayerNormalization": _rms_norm,
    "SkipLayerNormalization": _skip_layer_norm,
    "SkipSimplifiedLayerNormalization": _skip_rms_norm,
    "TransposeMatMul": _fused_matmul,
}
