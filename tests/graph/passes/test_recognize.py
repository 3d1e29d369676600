"""Activations and normalizations that exporters write as arithmetic; the right values are those of the arithmetic."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from edgekit.graph.passes import optimize

NUMBERS = {
    "one": 1.0,
    "two": 2.0,
    "three": 3.0,
    "six": 6.0,
    "sixth": 1 / 6,
    "zero": 0.0,
    "half": 0.5,
    "minus": -1.0,
    "root2": math.sqrt(2),
    "root_half": math.sqrt(0.5),
    "k": math.sqrt(2 / math.pi),
    "c": 0.044715,
    "epsilon": 1e-5,
    "inverse_root": -0.5,
    "fifth": 0.2,
    "quarter": 0.25,
    "four": 4.0,
}
ARRAYS = {
    "last": np.array([-1]),
    "trailing": np.array([1, 2]),
    "first": np.array([1]),
    "kept": np.array([2, 3, 1]),
    "w": np.linspace(0.5, 1.5, 4).astype(np.float32),
    "b": np.linspace(-1, 1, 4).astype(np.float32),
    "w3": np.linspace(0.5, 1.5, 4).astype(np.float32).reshape(1, 1, 4),
    "wide": np.linspace(0.5, 1.5, 12).astype(np.float32).reshape(3, 4),
}
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -3.0, 3.0, 80.0, -80.0, 1e-30, -2.999, 5.5]


def operators(graph):
    return [node.op_type for node in graph.graph]


def build(graph_of, text, outputs=("y",), dtype=np.float32):
    words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    used = {name: np.asarray(number, dtype) for name, number in NUMBERS.items() if name in words}
    used |= {n: a if a.dtype.kind == "i" else a.astype(dtype) for n, a in ARRAYS.items() if n in words}
    element = {np.float32: "float", np.float64: "double"}[dtype]
    results = ", ".join(f"{element}[2, 3, 4] {name}" for name in outputs)
    return graph_of(f"g ({element}[2, 3, 4] x) => ({results}) {{ {text} }}", **used)


def require_same(run_in_onnxruntime, graph, expected, *, special=True):
    x = (np.random.default_rng(0).standard_normal((2, 3, 4)) * 3).astype(np.float32)
    feeds = [x]
    if special:
        spoiled = x.copy()
        spoiled.reshape(-1)[: len(SPECIAL)] = SPECIAL
        feeds.append(spoiled)
    before = [run_in_onnxruntime(graph, {"x": feed}) for feed in feeds]
    optimize(graph)
    assert operators(graph) == expected
    for feed, outputs in zip(feeds, before, strict=True):
        for got, wanted in zip(run_in_onnxruntime(graph, {"x": feed}), outputs, strict=True):
            scale = np.ptp(wanted[np.isfinite(wanted)])
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * min(scale, 10.0))


HARD_SWISH = {
    "Paddle": "a = Add (x, three) r = Clip (a, zero, six) m = Mul (x, r) y = Div (m, six)",
    "torchvision": "a = Add (three, x) r = Clip (a, zero, six) d = Mul (r, sixth) y = Mul (d, x)",
    "TensorFlow": "a = Add (x, three) p = Relu (a) r = Min (p, six) m = Mul (sixth, x) y = Mul (m, r)",
    "Max and Min": "a = Add (x, three) p = Max (zero, a) r = Min (six, p) d = Div (r, six) y = Mul (x, d)",
    "HardSigmoid": "h = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x) y = Mul (h, x)",
    "of a Clip to one": "a = Mul (x, sixth) d = Add (a, half) r = Clip (d, zero, one) y = Mul (r, x)",
}


@pytest.mark.parametrize("form", HARD_SWISH)
def test_hard_swish(run_in_onnxruntime, graph_of, form):
    require_same(run_in_onnxruntime, build(graph_of, HARD_SWISH[form]), ["HardSwish"])


HARD_SIGMOID = {
    "MobileNet": ("a = Add (x, three) r = Clip (a, zero, six) y = Div (r, six)", 1 / 6, 0.5),
    "Keras": ("a = Mul (x, fifth) d = Add (half, a) y = Clip (d, zero, one)", 0.2, 0.5),
    "one minus": ("a = Sub (x, three) y = Clip (a, zero, one)", 1.0, -3.0),
}


@pytest.mark.parametrize("form", HARD_SIGMOID)
def test_hard_sigmoid(run_in_onnxruntime, graph_of, form):
    text, alpha, beta = HARD_SIGMOID[form]
    graph = build(graph_of, text)
    require_same(run_in_onnxruntime, graph, ["HardSigmoid"])
    node = next(iter(graph.graph))
    assert node.attributes.get_float("alpha") == pytest.approx(alpha)
    assert node.attributes.get_float("beta") == pytest.approx(beta)


GELU = {
    "BERT": "a = Div (x, root2) e = Erf (a) s = Add (e, one) m = Mul (x, s) y = Mul (m, half)",
    "halved before": "h = Mul (half, x) a = Mul (x, root_half) e = Erf (a) s = Add (one, e) y = Mul (h, s)",
    "halved between": "a = Mul (x, root_half) e = Erf (a) h = Mul (e, half) s = Add (h, half) y = Mul (s, x)",
    "divided": "a = Div (x, root2) e = Erf (a) s = Add (e, one) h = Div (s, two) y = Mul (h, x)",
    "Keras": "h = Mul (x, half) n = Neg (x) a = Mul (n, root_half) e = Erf (a) s = Sub (one, e) y = Mul (h, s)",
    "of a scaled value": "v = Mul (x, two) a = Div (v, root2) e = Erf (a) s = Add (e, one) m = Mul (v, s) "
    "y = Mul (m, half)",
}
TANH = {
    "Pow": "q = Pow (x, three) n = Mul (q, c) i = Add (x, n) a = Mul (i, k) e = Tanh (a) s = Add (e, one) "
    "h = Mul (x, half) y = Mul (h, s)",
    "products": "p = Mul (x, x) q = Mul (p, x) n = Mul (c, q) i = Add (n, x) a = Mul (k, i) e = Tanh (a) "
    "s = Add (one, e) m = Mul (x, s) y = Mul (half, m)",
    "factored": "p = Mul (x, x) n = Mul (p, c) i = Add (n, one) u = Mul (x, k) a = Mul (u, i) e = Tanh (a) "
    "s = Add (e, one) m = Mul (s, x) y = Mul (m, half)",
}


@pytest.mark.parametrize("form", GELU)
def test_gelu(run_in_onnxruntime, graph_of, form):
    expected = ["Mul", "Gelu"] if form == "of a scaled value" else ["Gelu"]
    require_same(run_in_onnxruntime, build(graph_of, GELU[form]), expected)


def test_gelu_of_the_other_sign_is_none(run_in_onnxruntime, graph_of):
    text = GELU["Keras"].replace("Sub (one, e)", "Add (one, e)")
    graph = build(graph_of, text)
    x = {"x": np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)}
    before = run_in_onnxruntime(graph, x)
    graph = optimize(graph)
    assert "Gelu" not in operators(graph)
    np.testing.assert_allclose(run_in_onnxruntime(graph, x)[0], before[0], atol=1e-6)


@pytest.mark.parametrize("form", TANH)
def test_gelu_with_tanh(run_in_onnxruntime, graph_of, form):
    graph = build(graph_of, TANH[form])
    require_same(run_in_onnxruntime, graph, ["Gelu"])
    assert next(iter(graph.graph)).attributes.get_string("approximate") == "tanh"


SIGMOID = {
    "Reciprocal": ("n = Neg (x) e = Exp (n) s = Add (e, one) y = Reciprocal (s)", ["Sigmoid"]),
    "Div": ("n = Mul (x, minus) e = Exp (n) s = Add (one, e) y = Div (one, s)", ["Sigmoid"]),
    "SiLU": ("n = Neg (x) e = Exp (n) s = Add (e, one) y = Div (x, s)", ["Sigmoid", "Mul"]),
}


@pytest.mark.parametrize("form", SIGMOID)
def test_sigmoid_and_silu(run_in_onnxruntime, graph_of, form):
    text, expected = SIGMOID[form]
    require_same(run_in_onnxruntime, build(graph_of, text), expected)


CENTER = "m = ReduceMean (x, last) d = Sub (x, m) "
MOMENTS = "m = ReduceMean (x, last) q = Mul (x, x) v2 = ReduceMean (q, last) m2 = Mul (m, m) "
LAYER_NORM = {
    "PyTorch": CENTER + "q = Pow (d, two) v = ReduceMean (q, last) a = Add (v, epsilon) s = Sqrt (a) n = Div (d, s) "
    "t = Mul (n, w) y = Add (t, b)",
    "two differences": CENTER
    + "f = Sub (x, m) q = Mul (f, f) v = ReduceMean (q, last) a = Add (epsilon, v) s = Sqrt (a) "
    "n = Div (d, s) t = Mul (w3, n) y = Add (b, t)",
    "Reciprocal": CENTER
    + "q = Mul (d, d) v = ReduceMean (q, last) a = Add (v, epsilon) s = Sqrt (a) r = Reciprocal (s) "
    "n = Mul (d, r) t = Mul (n, w) y = Add (t, b)",
    "Pow": CENTER
    + "q = Mul (d, d) v = ReduceMean (q, last) a = Add (v, epsilon) r = Pow (a, inverse_root) y = Mul (r, d)",
    "without bias": CENTER + "q = Mul (d, d) v = ReduceMean (q, last) a = Add (v, epsilon) s = Sqrt (a) "
    "n = Div (d, s) "
    "y = Mul (n, w)",
    "without scale": CENTER
    + "q = Mul (d, d) v = ReduceMean (q, last) a = Add (v, epsilon) s = Sqrt (a) n = Div (d, s) "
    "y = Add (n, b)",
    "Flax": MOMENTS + "v = Sub (v2, m2) p = Max (zero, v) a = Add (p, epsilon) s = Sqrt (a) r = Reciprocal (s) "
    "f = Mul (r, w) d = Sub (x, m) t = Mul (d, f) y = Add (t, b)",
    "Flax, sums without axis": "u = ReduceSum <keepdims = 0> (x, last) m = Mul (u, quarter) q = Mul (x, x) "
    "j = ReduceSum <keepdims = 0> (q, last) v2 = Div (j, four) m2 = Mul (m, m) v = Sub (v2, m2) p = Relu (v) "
    "g = Unsqueeze (p, last) a = Add (g, epsilon) s = Sqrt (a) r = Reciprocal (s) f = Mul (w, r) "
    "h = Reshape (m, kept) d = Sub (x, h) t = Mul (d, f) y = Add (t, b)",
    "moments": MOMENTS + "v = Sub (v2, m2) a = Add (v, epsilon) s = Sqrt (a) d = Sub (x, m) n = Div (d, s) "
    "t = Mul (n, w) y = Add (t, b)",
    "two axes": "m = ReduceMean (x, trailing) d = Sub (x, m) q = Mul (d, d) v = ReduceMean (q, trailing) "
    "a = Add (v, epsilon) s = Sqrt (a) n = Div (d, s) t = Mul (n, wide) y = Add (t, wide)",
}


@pytest.mark.parametrize("form", LAYER_NORM)
def test_layer_norm(run_in_onnxruntime, graph_of, form):
    # With an infinity in a row, all of it is NaN in both.
    require_same(run_in_onnxruntime, build(graph_of, LAYER_NORM[form]), ["LayerNormalization"])


@pytest.mark.parametrize("axes", ["last", "first"])
def test_softmax(run_in_onnxruntime, graph_of, axes):
    text = f"m = ReduceMax (x, {axes}) d = Sub (x, m) e = Exp (d) s = ReduceSum (e, {axes}) y = Div (e, s)"
    require_same(run_in_onnxruntime, build(graph_of, text), ["Softmax"], special=False)


OTHERS = {
    "another threshold": "a = Add (x, two) r = Clip (a, zero, six) m = Mul (x, r) y = Div (m, six)",
    "gate of another value": "n = Abs (x) a = Add (n, three) r = Clip (a, zero, six) m = Mul (x, r) y = Div (m, six)",
    "a Clip alone": "y = Clip (x, zero, one)",
    "falling": "n = Neg (x) a = Add (n, three) r = Clip (a, zero, six) y = Div (r, six)",
    "QuickGELU": "a = Mul (x, root2) s = Sigmoid (a) y = Mul (x, s)",
    "Erf of another scale": "a = Mul (x, two) e = Erf (a) s = Add (e, one) m = Mul (x, s) y = Mul (m, half)",
    "another factor": "a = Div (x, root2) e = Erf (a) s = Add (e, one) m = Mul (x, s) y = Mul (m, two)",
    "another polynomial": "q = Pow (x, two) n = Mul (q, c) i = Add (x, n) a = Mul (i, k) e = Tanh (a) "
    "s = Add (e, one) h = Mul (x, half) y = Mul (h, s)",
    "softmax without maximum": "e = Exp (x) s = ReduceSum (e, last) y = Div (e, s)",
    "variance over other axes": CENTER + "q = Mul (d, d) v = ReduceMean (q, first) a = Add (v, epsilon) "
    "s = Sqrt (a) y = Div (d, s)",
    "normalization of the first axes": "m = ReduceMean (x, first) d = Sub (x, m) q = Mul (d, d) "
    "v = ReduceMean (q, first) a = Add (v, epsilon) s = Sqrt (a) y = Div (d, s)",
    "moments of other axes": MOMENTS.replace("v2 = ReduceMean (q, last)", "v2 = ReduceMean (q, first)")
    + "v = Sub (v2, m2) a = Add (v, epsilon) s = Sqrt (a) d = Sub (x, m) y = Div (d, s)",
    "a sum divided by another number": "u = ReduceSum (x, last) m = Mul (u, fifth) d = Sub (x, m) q = Mul (d, d) "
    "v = ReduceMean (q, last) a = Add (v, epsilon) s = Sqrt (a) y = Div (d, s)",
    "a variance cut off elsewhere": MOMENTS + "v = Sub (v2, m2) p = Max (one, v) a = Add (p, epsilon) s = Sqrt (a) "
    "d = Sub (x, m) y = Div (d, s)",
    "exponential of x": "e = Exp (x) s = Add (e, one) y = Reciprocal (s)",
}


@pytest.mark.parametrize("form", OTHERS)
def test_other_expressions_stay(graph_of, form):
    graph = build(graph_of, OTHERS[form])
    before = [each for each in operators(graph) if each != "Constant"]
    optimize(graph)
    assert sorted(operators(graph)) == sorted(before)


SHARED = [HARD_SWISH["Paddle"], HARD_SIGMOID["MobileNet"][0], GELU["BERT"], TANH["Pow"], LAYER_NORM["PyTorch"]]
SHARED += [
    SIGMOID["SiLU"][0],
    "m = ReduceMax (x, last) d = Sub (x, m) e = Exp (d) s = ReduceSum (e, last) y = Div (e, s)",
]


@pytest.mark.parametrize("text", SHARED)
def test_every_part_may_be_an_output_too(run_in_onnxruntime, graph_of, text):
    x = (np.random.default_rng(0).standard_normal((2, 3, 4)) * 3).astype(np.float32)
    parts = [each.split()[-1] for each in text.split(" =")[:-1] if each.split()[-1] != "y"]
    for part in parts:
        proto = onnx.shape_inference.infer_shapes(ir.to_proto(build(graph_of, text)))
        proto.graph.output.append(helper.make_tensor_value_info(part, onnx.TensorProto.FLOAT, None))
        expected = run_in_onnxruntime(proto, {"x": x})
        graph = ir.from_proto(proto)
        optimize(graph)
        for got, wanted in zip(run_in_onnxruntime(graph, {"x": x}), expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5, err_msg=part)


def test_a_number_of_more_axes_than_the_value_stays(run_in_onnxruntime, graph_of):
    text = "a = Add (x, three) r = Clip (a, zero, six) m = Mul (x, r) y = Div (m, tall)"
    graph = graph_of(
        f"g (float[4] x) => (float[1, 4] y) {{ {text} }}",
        tall=np.full((1, 1), 6, np.float32),
        **{name: np.asarray(NUMBERS[name], np.float32) for name in ("three", "zero", "six")},
    )
    x = np.array([-5, -1, 1, 5], np.float32)
    expected = run_in_onnxruntime(graph, {"x": x})[0]
    optimize(graph)
    got = run_in_onnxruntime(graph, {"x": x})[0]
    assert got.shape == (1, 4)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
