"""Arithmetic that the passes recognize keeps its outputs, and becomes the operator in every opset and type."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pass_graphs import OPSETS, TYPES, Builder, require_unchanged


def gelu_with_erf(b):
    s = b.op("Add", b.op("Erf", b.op("Div", "x", math.sqrt(2))), 1.0)
    return b.op("Mul", b.op("Mul", "x", s), 0.5)


def gelu_of_product(b):
    s = b.op("Add", b.op("Erf", b.op("Mul", "x", math.sqrt(0.5))), 1.0)
    return b.op("Mul", "x", b.op("Mul", s, 0.5))


def gelu_with_tanh(b):
    cube = b.op("Mul", b.op("Pow", "x", 3.0), 0.044715)
    t = b.op("Tanh", b.op("Mul", b.op("Add", "x", cube), math.sqrt(2 / math.pi)))
    return b.op("Mul", b.op("Mul", "x", 0.5), b.op("Add", t, 1.0))


def hard_swish(b):
    return b.op("Div", b.op("Mul", "x", b.clip(b.op("Add", "x", 3.0), 0, 6)), 6.0)


def hard_swish_of_sixth(b):
    return b.op("Mul", "x", b.op("Mul", b.clip(b.op("Add", "x", 3.0), 0, 6), 1 / 6))


def hard_sigmoid(b):
    return b.clip(b.op("Add", b.op("Mul", "x", 0.2), 0.5), 0, 1)


def silu(b):
    return b.op("Div", "x", b.op("Add", b.op("Exp", b.op("Neg", "x")), 1.0))


def layer_norm(b):
    d = b.op("Sub", "x", b.mean("x", [-1]))
    root = b.op("Sqrt", b.op("Add", b.mean(b.op("Mul", d, d), [-1]), 1e-5))
    return b.op("Add", b.op("Mul", b.op("Div", d, root), b.normal(5)), b.normal(5))


def layer_norm_of_pow(b):
    d = b.op("Sub", "x", b.mean("x", [2, 3]))
    root = b.op("Sqrt", b.op("Add", b.mean(b.op("Pow", d, 2.0), [2, 3]), 1e-3))
    return b.op("Mul", b.op("Div", d, root), b.normal(3, 5))


def softmax_of_parts(b):
    e = b.op("Exp", b.op("Sub", "x", b.with_axes("ReduceMax", "x", [-1], 18)))
    return b.op("Div", e, b.with_axes("ReduceSum", e, [-1], 13))


def softmax_by_axis(b):
    return b.op("Softmax", "x", axis=1)


def pool_of_mean(b):
    return b.mean("x", [2, 3])


def pool_without_axes(b):
    return b.mean(b.op("Relu", "x"), [2, 3], keepdims=0)


def reshapes(b):
    flat = b.op("Flatten", "x", axis=2)
    wide = b.with_axes("Unsqueeze", b.op("Reshape", flat, np.array([2, -1, 5])), [0], 13)
    return b.op("Reshape", b.with_axes("Squeeze", wide, [0], 13), np.array([0, 2, 6, -1]))


def transposes(b):
    t = b.op("Transpose", "x", perm=[0, 2, 3, 1])
    scaled = b.op("Add", b.op("Mul", t, b.normal(4)), b.normal(3, 1, 1))
    return b.op("Transpose", b.op("Relu", scaled), perm=[0, 3, 1, 2])


def clips(b):
    return b.clip(b.clip("x", -1, 2), 0, 3)


def numbers(b):
    x = b.op("Div", b.op("Neg", b.op("Mul", "x", 3.0)), 7.0)
    return b.op("Sub", b.op("Add", x, 0.3), 1.7)


def number_minus(b):
    return b.op("Sub", 1.5, b.op("Sub", 0.25, b.op("Mul", "x", 0.1)))


def conv_with_numbers(b):
    c = b.op("Conv", "x", b.normal(6, 4, 3, 3, scale=0.2), b.normal(6), pads=[1, 1, 1, 1])
    return b.op("Mul", b.op("Add", c, b.normal(6, 1, 1)), b.normal(1, 6, 1, 1))


def conv_of_scaled(b):
    c = b.op("Add", b.op("Mul", "x", b.normal(4, 1, 1)), b.normal(1, 4, 1, 1))
    return b.op("Conv", c, b.normal(6, 4, 2, 2, scale=0.2))


def conv_batch_norm(b, operator="Conv", weight=(6, 4, 1, 1)):
    c = b.op(operator, "x", b.normal(*weight, scale=0.5))
    parts = [b.normal(6), b.normal(6), b.normal(6), np.abs(b.normal(6)) + 0.5]
    return b.op("BatchNormalization", c, *parts, epsilon=1e-3)


def transposed_conv_batch_norm(b):
    return conv_batch_norm(b, "ConvTranspose", (4, 6, 2, 2))


def product_with_bias(b):
    p = b.op("Add", b.op("MatMul", "x", b.normal(5, 6, scale=0.4)), b.normal(6))
    return b.op("Mul", p, b.normal(6))


def gemm_of_flat(b):
    g = b.op("Gemm", b.op("Flatten", "x"), b.normal(7, 60, scale=0.1), b.normal(7), transB=1, alpha=0.5, beta=2.0)
    return b.op("Sub", b.op("Div", g, b.normal(1, 7) + 3), b.normal(7))


def twins(b):
    one, two = (b.op("Mul", b.op("Sigmoid", "x"), 2.0) for _ in range(2))
    return b.op("Add", one, b.op("Tanh", two))


def padded(b):
    pads = [0, 0, 1, 2, 0, 0, 1, 0]
    p = b.op("Pad", "x", np.array(pads)) if b.opset >= 11 else b.op("Pad", "x", pads=pads)
    return b.op("Conv", p, b.normal(6, 4, 3, 3, scale=0.2))


def attention(b):
    """Scores that a number divides, and a mask of the lowest number that the type has."""
    mask = np.triu(np.full((3, 3), float(np.finfo(b.dtype).min)), 1)
    keys = b.op("Transpose", b.op("Mul", "x", b.normal(5)), perm=[0, 1, 3, 2])
    scores = b.op("Add", b.op("Div", b.op("MatMul", "x", keys), math.sqrt(5)), mask)
    return b.op("MatMul", b.op("Softmax", scores, axis=3), "x")


def guarded_attention(b):
    """PyTorch's form: half of the scale on each side, and zeros where all scores of a row are minus infinity."""
    mask = np.repeat([[-np.inf], [0], [0]], 3, axis=1)
    half = math.sqrt(math.sqrt(1 / 5))
    keys = b.op("Mul", b.op("Transpose", "x", perm=[0, 1, 3, 2]), half)
    scores = b.op("Add", b.op("MatMul", b.op("Mul", "x", half), keys), mask)
    weights = b.op("Softmax", scores, axis=3)
    return b.op("MatMul", b.op("Where", b.op("IsNaN", weights), 0.0, weights), "x")


FORMS = {
    form.__name__: form
    for form in (
        *(gelu_with_erf, gelu_of_product, gelu_with_tanh, hard_swish, hard_swish_of_sixth, hard_sigmoid, silu),
        *(
            layer_norm,
            layer_norm_of_pow,
            softmax_of_parts,
            softmax_by_axis,
            pool_of_mean,
            pool_without_axes,
            reshapes,
            transposes,
        ),
        *(clips, numbers, number_minus, conv_with_numbers, conv_of_scaled, conv_batch_norm),
        *(transposed_conv_batch_norm, product_with_bias, gemm_of_flat, twins, padded),
        *(attention, guarded_attention),
    )
}
ONE_OPERATOR = {
    "gelu_with_erf": "Gelu", "gelu_of_product": "Gelu", "gelu_with_tanh": "Gelu", "hard_swish": "HardSwish",
    "hard_sigmoid": "HardSigmoid", "layer_norm": "LayerNormalization", "layer_norm_of_pow": "LayerNormalization",
    "softmax_of_parts": "Softmax",
    "pool_of_mean": "GlobalAveragePool", "clips": "Clip", "conv_with_numbers": "Conv", "conv_of_scaled": "Conv",
    "conv_batch_norm": "Conv", "transposed_conv_batch_norm": "ConvTranspose", "padded": "Conv",
}  # fmt: skip
"""What each becomes alone, in every opset and type."""
NEEDS = {"gelu_with_erf": 9, "gelu_of_product": 9, "guarded_attention": 9}
"""The first opset of an operator in it."""


@pytest.mark.parametrize("name", FORMS)
def test_outputs_are_the_same_in_every_opset_and_type(run_in_onnxruntime, tmp_path, name):
    for index, opset in enumerate(opset for opset in OPSETS if opset >= NEEDS.get(name, 7)):
        dtypes = list(TYPES.values())
        dtype = dtypes[index % len(dtypes)]
        b = Builder(opset, dtype)
        operators = require_unchanged(run_in_onnxruntime, b.model(FORMS[name](b)), tmp_path)
        if name in ONE_OPERATOR:
            assert operators == [ONE_OPERATOR[name]], (opset, dtype)
