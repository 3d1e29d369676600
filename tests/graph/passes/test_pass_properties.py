"""What the passes leave unchanged, over opsets and element types: outputs are those of ONNX Runtime on the original.

The reference is the same graph in FP32 with the numbers that the file's type has, run without optimizations.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.passes import optimize

OPSETS = (7, 9, 11, 13, 17, 18, 20, 21, 24)
TYPES = {"fp32": np.float32, "fp16": np.float16, "fp64": np.float64}
IR_VERSIONS = {7: 4, 9: 4, 11: 6, 13: 7, 17: 8, 18: 8, 20: 9, 21: 10, 24: 13}
SHAPE = (2, 4, 3, 5)


class Builder:
    """Writes a graph of one input operator by operator, in the form that an opset wants."""

    def __init__(self, opset, dtype, shape=SHAPE, seed=0):
        self.opset, self.dtype, self.shape = opset, np.dtype(dtype), list(shape)
        self.random = np.random.default_rng(seed)
        self.nodes, self.weights = [], {}

    def op(self, operator, *inputs, **attributes):
        name = f"v{len(self.nodes)}"
        inputs = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        self.nodes.append(helper.make_node(operator, inputs, [name], name=f"n{len(self.nodes)}", **attributes))
        return name

    def constant(self, array):
        array = np.asarray(array)
        array = array.astype(self.dtype) if array.dtype.kind == "f" else array.astype(np.int64)
        name = f"c{len(self.weights)}"
        self.weights[name] = array
        return name

    def normal(self, *shape, scale=1.0):
        return self.random.standard_normal(shape) * scale

    def with_axes(self, operator, x, axes, since, **attributes):
        """An operator whose axes are an input from an opset on, and an attribute before."""
        if self.opset >= since:
            return self.op(operator, x, np.array(axes), **attributes)
        return self.op(operator, x, axes=axes, **attributes)

    def mean(self, x, axes, keepdims=1):
        return self.with_axes("ReduceMean", x, axes, 18, keepdims=keepdims)

    def clip(self, x, low, high):
        if self.opset >= 11:
            return self.op("Clip", x, float(low), float(high))
        return self.op("Clip", x, min=float(low), max=float(high))

    def model(self, y):
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        graph = helper.make_graph(
            [*self.nodes, helper.make_node("Identity", [y], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", kind, self.shape)],
            [helper.make_tensor_value_info("y", kind, None)],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=IR_VERSIONS[self.opset]
        )
        del model.graph.output[0].type.tensor_type.shape.dim[:]
        model.graph.output[0].type.tensor_type.ClearField("shape")
        return onnx.shape_inference.infer_shapes(model)


def in_float32(model):
    """The same graph in FP32; its numbers are those of the file, and finite where they are."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    others = (TensorProto.FLOAT16, TensorProto.DOUBLE)
    largest = np.finfo(np.float32).max
    for weight in model.graph.initializer:
        if weight.data_type in others:
            array = numpy_helper.to_array(weight)
            numbers = np.where(np.isinf(array), array, np.clip(array, -largest, largest)).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(numbers, weight.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    del model.graph.value_info[:]
    return model


def decibels(expected, got):
    noise = np.square(got - expected).sum()
    return math.inf if noise == 0 else 10 * math.log10(np.square(expected).sum() / noise)


def optimized(model, tmp_path):
    onnx.save(model, tmp_path / "m.onnx")
    return optimize(graph_from_onnx(tmp_path / "m.onnx"))


def require_unchanged(run_in_onnxruntime, model, tmp_path, shape=SHAPE):
    """The outputs of the optimized graph are those of the original; returns the optimized operators."""
    x = (np.random.default_rng(1).standard_normal(shape) * 2).astype(np.float16).astype(np.float32)
    (expected,) = run_in_onnxruntime(in_float32(model), {"x": x})
    graph = optimized(model, tmp_path)
    (got,) = run_in_onnxruntime(graph, {"x": x})
    operators = [node.op_type for node in graph.graph]
    finite = np.isfinite(expected)
    assert got.shape == expected.shape
    np.testing.assert_array_equal(got[~finite], expected[~finite], str(operators))
    assert decibels(expected[finite].astype(np.float64), got[finite]) > 80, operators
    return operators


def arithmetic(b, x, shape):
    """Arithmetic with a constant of a random shape that broadcasts, on either side."""
    sizes = [size if b.random.integers(2) else 1 for size in shape]
    sizes = sizes[b.random.integers(len(sizes) + 1) :] if b.random.integers(3) else [1]
    operator = str(b.random.choice(["Add", "Sub", "Mul", "Div"]))
    constant = b.random.uniform(0.5, 2, sizes) * b.random.choice([-1, 1], sizes)
    swapped = b.random.integers(2) and operator != "Div"
    return b.op(operator, *((constant, x) if swapped else (x, constant))), shape


def turn(b, x, shape):
    order = b.random.permutation(len(shape)).tolist()
    return b.op("Transpose", x, perm=order), [shape[axis] for axis in order]


def reshape(b, x, shape):
    """A change of shape by a random one of four operators."""
    kind = b.random.integers(4)
    axis = int(b.random.integers(len(shape) + 1))
    if kind == 0:
        return b.op("Flatten", x, axis=axis), [math.prod(shape[:axis]), math.prod(shape[axis:])]
    if kind == 1 and len(shape) < 5:
        return b.with_axes("Unsqueeze", x, [axis], 13), [*shape[:axis], 1, *shape[axis:]]
    ones = [index for index, size in enumerate(shape) if size == 1]
    if kind == 2 and ones and len(shape) > 2:
        return b.with_axes("Squeeze", x, ones[:1], 13), [size for index, size in enumerate(shape) if index != ones[0]]
    sizes = [*shape[:1], -1, *shape[3:]] if len(shape) > 2 else [math.prod(shape[:1]), -1, 1]
    target = [0, *sizes[1:]] if b.random.integers(2) else sizes
    rest = abs(math.prod(shape) // math.prod(sizes))
    return b.op("Reshape", x, np.array(target)), [rest if size == -1 else size for size in sizes]


def function(b, x, shape):
    if b.random.integers(3) == 0:
        low = float(b.random.uniform(-3, 0))
        return b.clip(x, low, low + 4), shape
    return b.op(str(b.random.choice(["Relu", "Sigmoid", "Tanh", "Neg", "Abs", "LeakyRelu"])), x), shape


def average(b, x, shape):
    number = int(b.random.integers(1, len(shape) + 1))
    axes = sorted(b.random.permutation(len(shape))[:number].tolist())
    axes = [2, 3] if len(shape) == 4 and b.random.integers(2) else axes
    keep = int(b.random.integers(2)) if len(axes) < len(shape) - 1 else 1
    kept = [1 if index in axes else size for index, size in enumerate(shape) if keep or index not in axes]
    return b.mean(x, axes, keep), kept


def product(b, x, shape):
    """A product with constant weights that the shape allows, or a BatchNormalization."""
    rank, kind = len(shape), b.random.integers(3)
    if kind == 0 and rank in (3, 4):
        pads = [int(b.random.integers(2))] * (2 * (rank - 2))
        weight = b.normal(3, shape[1], *[1 + 2 * pads[0]] * (rank - 2), scale=0.4)
        return b.op("Conv", x, weight, b.normal(3), pads=pads), [shape[0], 3, *shape[2:]]
    if kind == 1:
        scale, shift, mean, variance = (b.normal(shape[1]) for _ in range(4))
        return b.op("BatchNormalization", x, scale, shift, mean, np.abs(variance) + 0.3), shape
    return b.op("MatMul", x, b.normal(shape[-1], 3, scale=0.4)), [*shape[:-1], 3]


def twice(b, x, shape):
    """A sum of what two readers, which may be equal, make of one value."""
    one, other = (function(b, x, shape)[0] for _ in range(2))
    return b.op("Add", one, other), shape


def normalize(b, x, shape):
    """A Softmax; before opset 13, it is one over all axes from ``axis`` on."""
    return b.op("Softmax", x, axis=int(b.random.integers(len(shape)))), shape


def select(b, x, shape):
    """Elements of one axis, by Gather or Slice."""
    axis = int(b.random.integers(len(shape)))
    start, step = int(b.random.integers(shape[axis])), 1 + int(b.random.integers(2))
    sizes = [*shape[:axis], len(range(start, shape[axis], step)), *shape[axis + 1 :]]
    if b.random.integers(2) or (step > 1 and b.opset < 10):
        return b.op("Gather", x, np.arange(start, shape[axis], step), axis=axis), sizes
    if b.opset < 10:
        return b.op("Slice", x, axes=[axis], starts=[start], ends=[99]), sizes
    return b.op("Slice", x, *map(np.array, ([start], [99], [axis], [step]))), sizes


def join(b, x, shape):
    axis = int(b.random.integers(len(shape)))
    other, _ = function(b, x, shape)
    return b.op("Concat", x, other, axis=axis), [*shape[:axis], 2 * shape[axis], *shape[axis + 1 :]]


def window(b, x, shape):
    """A Pad, with zeros or the lowest number, and a pooling, whose last window may hang over the edge."""
    rank = len(shape) - 2
    if rank not in (1, 2) or min(shape[2:]) < 3:
        return function(b, x, shape)
    sizes = list(shape)
    operator = str(b.random.choice(["MaxPool", "AveragePool"]))
    if b.random.integers(2):
        pads = b.random.integers(0, 2, 2 * rank).tolist()
        sizes[2:] = [size + pads[axis] + pads[axis + rank] for axis, size in enumerate(sizes[2:])]
        full = [0, 0, *pads[:rank], 0, 0, *pads[rank:]]
        fill = -math.inf if operator == "MaxPool" and b.random.integers(2) else 0.0
        x = b.op("Pad", x, np.array(full), fill) if b.opset >= 11 else b.op("Pad", x, pads=full, value=fill)
    up = int(b.random.integers(2)) if b.opset >= 10 else 0
    attributes = {"ceil_mode": up} if b.opset >= 10 else {}
    sizes[2:] = [-((2 - size) // 2) + 1 if up else (size - 2) // 2 + 1 for size in sizes[2:]]
    return b.op(operator, x, kernel_shape=[2] * rank, strides=[2] * rank, **attributes), sizes


STEPS = (
    *(arithmetic, arithmetic, arithmetic, turn, turn, reshape, reshape, function, average, product, product, twice),
    *(normalize, select, join, window, window),
)
CHAIN = 7


@pytest.mark.parametrize("seed", range(40))
def test_random_chains_are_unchanged(run_in_onnxruntime, tmp_path, seed):
    choice = np.random.default_rng(seed)
    opset, dtype = int(choice.choice(OPSETS)), TYPES[str(choice.choice(list(TYPES)))]
    b = Builder(opset, dtype, ["n", *SHAPE[1:]] if seed % 2 else SHAPE, seed)
    x, shape = "x", list(SHAPE)
    for _ in range(CHAIN):
        x, shape = STEPS[b.random.integers(len(STEPS))](b, x, shape)
    require_unchanged(run_in_onnxruntime, b.model(x), tmp_path)


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
