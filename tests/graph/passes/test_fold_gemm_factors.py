"""Factors of a Gemm are part of its weights and its bias; NumPy computes the right values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.graph.passes import optimize
from edgekit.graph.passes.fold_gemm_factors import FoldGemmFactors

DRAW = np.random.default_rng(0)
W = DRAW.standard_normal((4, 3)).astype(np.float32)
B = DRAW.standard_normal(3).astype(np.float32)
X = DRAW.standard_normal((2, 4)).astype(np.float32)
NODES = {
    "alpha and beta": ("Gemm <alpha = 0.5, beta = 2.0> (x, w, b)", 0.5 * (X @ W) + 2 * B),
    "turned weights": ("Gemm <alpha = 0.5, transB = 1> (x, turned, b)", 0.5 * (X @ W) + B),
    "a bias times zero": ("Gemm <beta = 0.0> (x, w, b)", X @ W),
    "no bias": ("Gemm <alpha = 3.0, beta = 0.5> (x, w)", 3 * (X @ W)),
    "a scalar times zero": ("Gemm <alpha = 1.0, beta = 0.0> (x, w, zero)", X @ W),
}
WEIGHTS = {"w": W, "b": B, "turned": np.ascontiguousarray(W.T), "zero": np.float32(0)}


def build(graph_of, text, inputs="float[2, 4] x", **more):
    read = text.replace(")", ",").replace("(", ",").replace(" ", "").split(",")
    used = {name: np.asarray(array) for name, array in (WEIGHTS | more).items() if name in read}
    return graph_of(f"g ({inputs}) => (float[2, 3] y) {{ y = {text} }}", **used)


@pytest.mark.parametrize("form", NODES)
def test_factors_are_folded(run_in_onnxruntime, graph_of, form):
    text, expected = NODES[form]
    graph = optimize(build(graph_of, text))
    (gemm,) = graph.graph
    assert [gemm.attributes.get_float(name, 1.0) for name in ("alpha", "beta")] == [1.0, 1.0]
    assert len(gemm.inputs) == (3 if form in ("alpha and beta", "turned weights") else 2)
    np.testing.assert_allclose(run_in_onnxruntime(graph, {"x": X})[0], expected, rtol=1e-5, atol=1e-6)


def test_weights_that_two_read_are_scaled_for_one(run_in_onnxruntime, graph_of):
    graph = graph_of(
        "g (float[2, 4] x) => (float[2, 3] y) { p = Gemm <alpha = 2.0> (x, w) q = Gemm (x, w) y = Mul (p, q) }", w=W
    )
    product = X @ W
    np.testing.assert_allclose(run_in_onnxruntime(optimize(graph), {"x": X})[0], 2 * product * product, rtol=1e-4)


@pytest.mark.parametrize(
    ("text", "inputs"),
    [
        ("Gemm <alpha = 2.0> (x, v)", "float[2, 4] x, float[4, 3] v"),
        ("Gemm <beta = 0.0> (x, w, c)", "float[2, 4] x, float[3] c"),
        ("Gemm <beta = 0.0> (x, w, endless)", "float[2, 4] x"),
    ],
)
def test_factors_beside_what_is_not_constant_or_finite_stay(graph_of, text, inputs):
    graph: ir.Model = build(graph_of, text, inputs, endless=np.full(3, np.inf, np.float32))
    assert not FoldGemmFactors()(graph).modified
