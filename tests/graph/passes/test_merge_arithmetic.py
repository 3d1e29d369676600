from __future__ import annotations

import numpy as np
import pytest

from edgekit.graph.passes import optimize

NUMBERS = {"a": 2.5, "b": -0.3, "c": 7.0, "zero": 0.0, "tiny": 1e-30, "huge": 1e30, "one": 1.0, "six": 6.0, "two": 2.0}
X = np.array([[-20.0, -3.0, 0.0, 1e-3], [0.5, 5.9, 300.0, np.inf]], np.float32)


def operators(graph):
    return [node.op_type for node in graph.graph]


def build(graph_of, text, outputs="float[2, 4] y"):
    used = {
        name: np.asarray(number, np.float32) for name, number in NUMBERS.items() if f"{name})" in text.replace(",", ")")
    }
    return graph_of(f"g (float[2, 4] x) => ({outputs}) {{ r = Abs (x) {text} }}", **used)


def require_same(run_in_onnxruntime, graph, expected):
    before = run_in_onnxruntime(graph, {"x": X})
    optimize(graph)
    assert operators(graph) == ["Abs", *expected]
    for got, wanted in zip(run_in_onnxruntime(graph, {"x": X}), before, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s = Mul (r, a) y = Mul (b, s)", ["Mul"]),
        ("s = Mul (r, a) t = Div (s, c) u = Neg (t) y = Mul (u, b)", ["Mul"]),
        ("s = Add (r, a) t = Sub (s, c) y = Add (b, t)", ["Add"]),
        ("s = Clip (r, one, six) y = Clip (s, two, huge)", ["Clip"]),
        ("s = Clip (r, two, six) y = Clip (s, , one)", ["Clip"]),
        ("s = Clip (r, , two) y = Clip (s, one)", ["Clip"]),
        ("s = Add (r, a) t = Mul (s, b) y = Add (t, c)", ["Add", "Mul", "Add"]),  # loses digits if merged
        ("s = Sub (a, r) y = Add (s, b)", ["Sub", "Add"]),
        ("s = Mul (r, tiny) t = Mul (s, tiny) y = Add (t, a)", ["Mul", "Mul", "Add"]),  # not a number of float32
        ("s = Mul (r, a) t = Relu (s) y = Mul (t, b)", ["Mul", "Relu", "Mul"]),
        ("s = Div (a, r) y = Mul (s, b)", ["Div", "Mul"]),
    ],
)
def test_arithmetic_of_one_kind_is_merged(run_in_onnxruntime, graph_of, text, expected):
    require_same(run_in_onnxruntime, build(graph_of, text), expected)


@pytest.mark.parametrize(
    ("text", "outputs"),
    [
        ("s = Mul (r, a) y = Mul (s, b)", "float[2, 4] y, float[2, 4] s"),
        ("s = Mul (r, a) t = Mul (s, b) y = Add (s, t)", "float[2, 4] y"),
    ],
)
def test_what_is_read_elsewhere_stays(run_in_onnxruntime, graph_of, text, outputs):
    graph = build(graph_of, text, outputs)
    require_same(run_in_onnxruntime, graph, [node.op_type for node in list(graph.graph)[1:]])


def test_integers_stay(graph_of):
    text = "g (int64[4] x) => (int64[4] y) { s = Div (x, two) y = Mul (s, two) }"
    graph = graph_of(text, two=np.asarray(2))
    optimize(graph)
    assert operators(graph) == ["Div", "Mul"]
