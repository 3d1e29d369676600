"""Channels that are taken out of products, compared with the graph before in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.graph.passes import InferShapes
from edgekit.quantize.passes.split_channels import split_channels
from edgekit.quantize.plan import QuantPolicy, plan_from_graph
from edgekit.quantize.quantize import quantized_from_graph
from tests.quantize.passes.test_smooth_channels import SCHEMES

WIDTH = 64
CHANNELS = np.array([3, 17])
BODIES = {
    "MatMul": "h = Tanh (x)  y = MatMul (h, w)",
    "MatMul and a bias": "h = Tanh (x)  p = MatMul (h, w)  b = Add (p, bias)  y = Relu (b)",
    "Gemm of a transposed matrix": "h = Tanh (x)  y = Gemm <transB = 1, alpha = 0.5> (h, v, bias)",
    "two products": "h = Tanh (x)  p = MatMul (h, w)  q = MatMul (h, w)  y = Mul (p, q)",
    "what else reads the result": "h = Tanh (x)  p = MatMul (h, w)  r = Relu (p)  y = Sub (r, p)",
}


@pytest.fixture
def split(graph_of, weights):
    """The graph before and after, and its products."""

    def make(name: str):
        text = f"g (float[12, {WIDTH}] x) => (float[12, 8] y) {{ {BODIES[name]} }}"
        constants = {"w": weights(WIDTH, 8), "v": weights(8, WIDTH), "bias": weights(8, 1).ravel()}
        whole = graph_of(text, **{key: array for key, array in constants.items() if f"{key}" in text.split("Tanh")[1]})
        InferShapes()(whole)
        changed = whole.clone(deep_copy=False)
        products = [node for node in changed.graph if node.op_type in ("MatMul", "Gemm")]
        split_channels(changed, products[0].inputs[0], products, CHANNELS)
        return whole, changed, products

    return make


@pytest.mark.parametrize("name", BODIES)
def test_results_stay_the_same(split, run_in_onnxruntime, name):
    whole, changed, _ = split(name)
    feeds = [{"x": np.random.default_rng(0).normal(size=(12, WIDTH)).astype(np.float32)}]
    expected, got = (run_in_onnxruntime(graph, feeds)[0]["y"] for graph in (whole, changed))
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("name", BODIES)
def test_the_first_product_no_longer_reads_the_channels(split, name):
    _, _, products = split(name)
    for node in products:
        weight = node.inputs[1].const_value.numpy()
        rows = weight.T if node.op_type == "Gemm" else weight
        assert not rows[CHANNELS].any()
        assert rows[np.delete(np.arange(WIDTH), CHANNELS)].all()


def test_the_second_product_stays_in_float(split):
    _, changed, products = split("two products")
    plan = plan_from_graph(changed, SCHEMES["null"])
    assert [node.name for node in plan.nodes] == [node.name for node in products]


@pytest.mark.parametrize("name", SCHEMES)
def test_outlier_channels_are_taken_out_if_asked_to(graph_of, weights, calibrated, run_in_onnxruntime, sqnr_db, name):
    """One channel of a GELU is 40 times as large as the others, and its weights are no smaller."""
    gain = np.ones(WIDTH, np.float32)
    gain[5] = 40
    text = f"g (float[48, {WIDTH}] x) => (float[48, 32] y) {{ s = Mul (x, gain)  h = Gelu (s)  y = MatMul (h, w) }}"
    graph = graph_of(text, gain=gain, w=weights(WIDTH, 32))
    InferShapes()(graph)
    rng = np.random.default_rng(0)
    feeds, held = ([{"x": rng.normal(size=(48, WIDTH)).astype(np.float32)} for _ in range(4)] for _ in range(2))
    # What the large channel adds is the same for all outputs, and hides the others.
    for feed in (*feeds, *held):
        feed["x"][::2, 5] = 0
    exact = run_in_onnxruntime(graph, held)
    table = calibrated(graph, feeds)
    noise = {}
    for splits in (False, True):
        policy = QuantPolicy(split_outliers=splits)
        typed = quantized_from_graph(graph, table, SCHEMES[name], policy, feeds=feeds, threads=1)
        noise[splits] = sqnr_db(exact, run_in_onnxruntime(typed.graph, held))["y"]
        assert any(node.op_type == "Gather" for node in typed.graph.graph) == splits
    assert noise[True] > noise[False] + 1
