"""Every value that a pass might change or remove is, in turn, an output of the graph or read by another node too."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.graph.evaluator import Evaluator
from edgekit.graph.passes import optimize

HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def batch_norm(channels: int) -> dict[str, np.ndarray]:
    return {
        "scale": floats(channels, seed=1),
        "shift": floats(channels, seed=2),
        "mean": floats(channels, seed=3),
        "var": np.abs(floats(channels, seed=4)) + 0.1,
    }


GRAPHS = {
    "batch norm": (
        """g (float[1, 3, 6, 6] x) => (float[1, 4, 4, 4] y) {
            c = Conv (x, w, b)  n = BatchNormalization (c, scale, shift, mean, var)  y = Relu (n) }""",
        {"w": floats(4, 3, 3, 3), "b": floats(4), **batch_norm(4)},
    ),
    "batch norm without bias": (
        """g (float[1, 3, 6, 6] x) => (float[1, 4, 13, 13] y) {
            c = ConvTranspose <strides = [2, 2]> (x, w)  y = BatchNormalization (c, scale, shift, mean, var) }""",
        {"w": floats(3, 4, 3, 3), **batch_norm(4)},
    ),
    "batch norm of a product": (
        """g (float[2, 3] x) => (float[2, 4] y) {
            c = Gemm <beta = 0.5> (x, w, b)  y = BatchNormalization (c, scale, shift, mean, var) }""",
        {"w": floats(3, 4), "b": floats(4), **batch_norm(4)},
    ),
    "two layers of one weight": (
        """g (float[1, 4, 6, 6] x) => (float[1, 4, 2, 2] y) {
            c = Conv (x, w, b)  n = BatchNormalization (c, scale, shift, mean, var)
            d = Conv (n, w, b)  y = BatchNormalization (d, shift, scale, mean, var) }""",
        {"w": floats(4, 4, 3, 3), "b": floats(4), **batch_norm(4)},
    ),
    "arithmetic beside a layer": (
        """g (float[1, 3, 6, 6] x) => (float[1, 3, 4, 4] y) {
            m = Mul (x, c)  d = Sub (m, c)  p = Conv (d, w)  s = Add (p, c)  y = Mul (s, c) }""",
        {"w": floats(3, 3, 3, 3), "c": floats(3, 1, 1)},
    ),
    "scale of a product": (
        """g (float[2, 3] x) => (float[2, 4] y) { p = MatMul (x, w)  s = Add (p, b)  y = Mul (s, c) }""",
        {"w": floats(3, 4), "b": floats(4), "c": floats(4, seed=1)},
    ),
    "pad": (
        """g (float[1, 3, 6, 6] x) => (float[1, 4, 3, 3] y) {
            p = Pad (x, pads)  c = Conv (p, w)  q = Pad (c, pads)
            m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (q)
            r = Pad (m, ones)  y = AveragePool <kernel_shape = [3, 3]> (r) }""",
        {"w": floats(4, 3, 4, 4), "pads": np.asarray([0, 0, 0, 0, 0, 0, 1, 1]), "ones": np.asarray([0, 0, 1, 1] * 2)},
    ),
    "selections": (
        """g (float[2, 4] x) => (float[2, 2] y) {
            t = Transpose (w)  a, b = Split <axis = 1> (t, sizes)  s = Slice (w, one, two, zero)
            m = MatMul (x, a)  n = MatMul (x, b)  r = MatMul (x, t)  v = MatMul (r, w)  k = Add (m, n)
            u = ReduceSum (s)  o = ReduceSum (v)  z = Add (k, u)  y = Add (z, o) }""",
        {
            "w": floats(4, 4),
            "sizes": np.asarray([2, 2]),
            "one": np.asarray([1]),
            "two": np.asarray([2]),
            "zero": np.asarray([0]),
        },
    ),
    "identities": (
        """g (float[2, 4] x) => (float[2, 4] y) {
            a = Relu (x)  b = Identity (a)  c = Dropout (b)  d = Cast <to = 1> (c)  e = Reshape (d, shape)
            f = Transpose <perm = [0, 1]> (e)  h = Expand (f, shape)  y = Neg (h) }""",
        {"shape": np.asarray([2, 4])},
    ),
    "constants": (
        """g (float[2, 4] x) => (float[2, 4] y) {
            a = Mul (w, v)  b = Add (a, v)  s = Shape (x)  z = ConstantOfShape (s)  c = Add (x, b)  y = Add (c, z) }""",
        {"w": floats(2, 4), "v": floats(4)},
    ),
    "attention": (
        """g (float[1, 2, 5, 8] q, float[1, 2, 5, 8] k, float[1, 2, 5, 8] v) => (float[1, 2, 5, 8] y) {
            t = Transpose <perm = [0, 1, 3, 2]> (k)  s = MatMul (q, t)  d = Div (s, root)  e = Add (d, mask)
            p = Softmax (e)  i = IsNaN (p)  g = Where (i, zero, p)  y = MatMul (g, v) }""",
        {
            "root": np.asarray(2.8, np.float32),
            "mask": np.where(np.tri(5) > 0, 0, -np.inf).astype(np.float32),
            "zero": np.asarray(0, np.float32),
        },
    ),
}


def model_of(name: str) -> onnx.ModelProto:
    text, weights = GRAPHS[name]
    model = onnx.parser.parse_model(HEADER + text)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), key) for key, a in weights.items())
    return onnx.shape_inference.infer_shapes(model)


def values_of(model: onnx.ModelProto) -> dict[str, int]:
    """Every value that is not an input or output of the graph, and its element type."""
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    return types | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return Evaluator(model).run(feeds)


NAMED = {
    **GRAPHS,
    "transposes": (
        """g (float[2, 3, 4] x) => (float[2, 3, 4] y) {
            t = Transpose <perm = [0, 2, 1]> (x)  r = Mul (t, c)  s = Relu (r)  u = Transpose <perm = [0, 2, 1]> (s)
            y = Neg (u) }""",
        {"c": floats(3)},
    ),
    "scale behind a transpose": (
        """g (float[2, 3, 4] x) => (float[2, 5, 3] y) {
            p = MatMul (x, w)  q = Add (p, b)  t = Transpose <perm = [0, 2, 1]> (q)  y = Mul (t, c) }""",
        {"w": floats(4, 5), "b": floats(5), "c": floats(5, 1)},
    ),
    "arithmetic": (
        """g (float[2, 3] x) => (float[2, 3] y) {
            a = Mul (x, c)  b = Mul (a, c)  d = Div (b, root)  e = Erf (d)  f = Add (e, one)  h = Mul (b, f)
            y = Mul (h, half) }""",
        {
            "c": np.asarray(1.5, np.float32),
            "root": np.asarray(2**0.5, np.float32),
            "one": np.asarray(1, np.float32),
            "half": np.asarray(0.5, np.float32),
        },
    ),
}


@pytest.mark.parametrize("name", [name for name in NAMED if name != "attention"])  # its scores are scaled
def test_a_name_that_is_kept_stands_for_the_same_value(name):
    text, weights = NAMED[name]
    model = onnx.parser.parse_model(HEADER + text)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), key) for key, a in weights.items())
    plain = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    feeds = {v.name: floats(*(int(d) for d in v.shape), seed=7 + i) for i, v in enumerate(plain.graph.inputs)}
    before = Evaluator(plain, also=[v.name for node in plain.graph for v in node.outputs]).run(feeds)
    optimized = optimize(ir.from_proto(onnx.shape_inference.infer_shapes(model)))
    after = Evaluator(optimized, also=[v.name for node in optimized.graph for v in node.outputs]).run(feeds)
    for key in before.keys() & after.keys():
        np.testing.assert_allclose(after[key], before[key], rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("how", ["output", "reader"])
def test_optimizing_keeps_every_value_that_is_also_used_elsewhere(name, how):
    plain = model_of(name)
    feeds = {
        value.name: floats(*(d.dim_value for d in value.type.tensor_type.shape.dim), seed=7 + index)
        for index, value in enumerate(plain.graph.input)
    }
    expected_nodes = len(optimize(ir.from_proto(plain)).graph)
    assert expected_nodes < len(plain.graph.node) or name == "attention"  # else there would be nothing to test
    for value, dtype in values_of(plain).items():
        model = model_of(name)
        if how == "output":
            model.graph.output.append(helper.make_tensor_value_info(value, dtype, None))
        else:
            model.graph.node.append(helper.make_node("Cast", [value], ["also"], to=TensorProto.DOUBLE))
            model.graph.output.append(helper.make_tensor_value_info("also", TensorProto.DOUBLE, None))
        expected = run(ir.from_proto(model), feeds)
        got = run(optimize(ir.from_proto(model)), feeds)
        assert list(got) == list(expected)
        for key, array in expected.items():
            np.testing.assert_allclose(got[key], array, rtol=1e-4, atol=1e-5, err_msg=f"'{value}' as {how}: {key}")
