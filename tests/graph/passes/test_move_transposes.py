from __future__ import annotations

import numpy as np
import pytest

from edgekit.graph.passes import optimize

X = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
LAST = "t = Transpose <perm = [0, 2, 3, 1]> (x)"
FIRST = "Transpose <perm = [0, 3, 1, 2]>"


def operators(graph):
    return [node.op_type for node in graph.graph]


def build(graph_of, text, outputs="float[a, b, c, d] y", **constants):
    return graph_of(f"g (float[2, 3, 4, 5] x) => ({outputs}) {{ {text} }}", **constants)


def require_same(run_in_onnxruntime, graph, expected):
    before = run_in_onnxruntime(graph, {"x": X})
    optimize(graph)
    assert operators(graph) == expected
    for got, wanted in zip(run_in_onnxruntime(graph, {"x": X}), before, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{LAST} u = {FIRST} (t) y = Relu (u)", ["Relu"]),
        (f"{LAST} u = {LAST[4:-3]} (t) y = Relu (u)", ["Transpose", "Relu"]),
        (f"{LAST} r = Relu (t) s = Sigmoid (r) y = {FIRST} (s)", ["Relu", "Sigmoid"]),
        (f"{LAST} r = Mul (t, by_channel) s = Add (all, r) y = {FIRST} (s)", ["Mul", "Add"]),
        (f"{LAST} r = Sub (number, t) s = Clip (r, number) y = {FIRST} (s)", ["Sub", "Clip"]),
        (f"{LAST} r = Relu (t) y = Transpose <perm = [0, 1, 3, 2]> (r)", ["Relu", "Transpose"]),
        (f"{LAST} r = Softmax <axis = 3> (t) y = {FIRST} (r)", ["Transpose", "Softmax", "Transpose"]),
        (f"{LAST} r = Relu (t) a = {FIRST} (r) b = Exp (r) c = {FIRST} (b) y = Add (a, c)",
         ["Transpose", "Relu", "Transpose", "Exp", "Transpose", "Add"]),
        (f"{LAST} r = Mul (t, wide) y = Transpose <perm = [1, 0, 4, 2, 3]> (r)", ["Transpose", "Mul", "Transpose"]),
    ],
)  # fmt: skip
def test_transposes_that_meet_are_merged(run_in_onnxruntime, graph_of, text, expected):
    rng = np.random.default_rng(1)
    shapes = {"by_channel": (3,), "all": (1, 4, 5, 3), "number": (), "wide": (2, 1, 1, 1, 1)}
    constants = {n: np.asarray(rng.standard_normal(s), np.float32) for n, s in shapes.items() if n in text}
    outputs = "float[a, b, c, d, e] y" if "wide" in text else "float[a, b, c, d] y"
    require_same(run_in_onnxruntime, build(graph_of, text, outputs, **constants), expected)


def test_a_transposed_output_stays(run_in_onnxruntime, graph_of):
    graph = build(graph_of, f"{LAST} r = Relu (t) y = {FIRST} (r)", "float[a, b, c, d] y, float[e, f, g, h] t")
    require_same(run_in_onnxruntime, graph, ["Transpose", "Relu", "Transpose"])


def test_a_pair_that_leads_from_input_to_output_stays(run_in_onnxruntime, graph_of):
    graph = build(graph_of, f"{LAST} y = {FIRST} (t)")
    require_same(run_in_onnxruntime, graph, ["Transpose"])
