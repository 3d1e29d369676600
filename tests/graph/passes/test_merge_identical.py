from __future__ import annotations

import numpy as np
import pytest

from edgekit.graph.passes import optimize

X = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32)


def operators(graph):
    return [node.op_type for node in graph.graph]


def require_same(run_in_onnxruntime, graph, expected):
    before = run_in_onnxruntime(graph, {"x": X})
    optimize(graph)
    assert operators(graph) == expected
    for got, wanted in zip(run_in_onnxruntime(graph, {"x": X}), before, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = Exp (x) b = Exp (x) y = Add (a, b)", ["Exp", "Add"]),
        ("a = Exp (x) b = Exp (x) c = Relu (a) d = Relu (b) y = Add (c, d)", ["Exp", "Relu", "Add"]),
        ("a = LeakyRelu <alpha = 0.1> (x) b = LeakyRelu <alpha = 0.1> (x) y = Add (a, b)", ["LeakyRelu", "Add"]),
        ("a = Pow (x, two) b = Pow (x, deux) y = Add (a, b)", ["Pow", "Add"]),
        ("a, b = Split <axis = 1> (x, half) c, d = Split <axis = 1> (x, half) y = Concat <axis = 1> (d, a)",
         ["Split", "Concat"]),
        ("a = MatMul (x, w) b = MatMul (x, w) y = Sub (a, b)", ["MatMul", "Sub"]),
        ("a = Elu <alpha = 0.1> (x) b = Elu <alpha = 0.2> (x) y = Add (a, b)", ["Elu", "Elu", "Add"]),
        ("a = Pow (x, two) b = Pow (x, three) y = Add (a, b)", ["Pow", "Pow", "Add"]),
        ("a = Sub (x, two) b = Sub (two, x) y = Add (a, b)", ["Sub", "Sub", "Add"]),
        ("a = MatMul (x, w) b = MatMul (x, v) y = Sub (a, b)", ["MatMul", "MatMul", "Sub"]),
    ],
)  # fmt: skip
def test_what_is_computed_twice_is_merged(run_in_onnxruntime, graph_of, text, expected):
    constants = {"two": np.float32(2), "deux": np.float32(2), "three": np.float32(3), "half": np.array([2, 2])}
    constants |= {"w": W, "v": 2 * W}
    used = {n: np.asarray(a) for n, a in constants.items() if f", {n})" in text or f"({n}," in text}
    require_same(run_in_onnxruntime, graph_of(f"g (float[2, 4] x) => (float[2, 4] y) {{ {text} }}", **used), expected)


def test_outputs_of_the_graph_stay(run_in_onnxruntime, graph_of):
    graph = graph_of("g (float[2, 4] x) => (float[2, 4] a, float[2, 4] b) { a = Exp (x) b = Exp (x) }")
    require_same(run_in_onnxruntime, graph, ["Exp", "Exp"])


def test_random_numbers_stay(graph_of):
    text = """g (float[2, 4] x) => (float[2, 4] y) { a = RandomUniformLike (x) b = RandomUniformLike (x)
        c = Bernoulli (a) d = Bernoulli (a) e = Sub (a, b) f = Sub (c, d) y = Add (e, f) }"""
    graph = graph_of(text)
    optimize(graph)
    assert operators(graph) == ["RandomUniformLike"] * 2 + ["Bernoulli"] * 2 + ["Sub", "Sub", "Add"]


def test_a_weight_of_two_layers_stays_shared(run_in_onnxruntime, graph_of):
    graph = graph_of("g (float[2, 4] x) => (float[2, 4] y) { a = MatMul (x, w) b = Relu (a) y = MatMul (b, w) }", w=W)
    require_same(run_in_onnxruntime, graph, ["MatMul", "Relu", "MatMul"])
    assert len(graph.graph.initializers) == 1
