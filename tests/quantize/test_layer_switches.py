"""Layers that are switched to float, compared with what their float form reads."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edgekit.engine.backend import backend
from edgekit.graph.evaluator import Evaluator
from edgekit.quantize.half.cast import half_from_graph
from edgekit.quantize.half.check import rounding_graph
from edgekit.quantize.layer_switches import SwitchedGraph
from edgekit.quantize.quantize import quantized_from_graph
from edgekit.specs import Precision

PRODUCTS = "g (float[8, 16] x) => (float[8, 16] y) { a = MatMul (x, w)  t = Tanh (a)  y = MatMul (t, v) }"
CONVOLUTIONS = """g (float[1, 16, 8, 8] x) => (float[1, 16, 8, 8] y) {
    a = Conv (x, w)  b = Conv (a, v)  y = Tanh (b) }"""


@pytest.fixture
def quantized(graph_of, weights, feeds_for, calibrated):
    def make(text: str, target: str, shape: tuple[int, ...]):
        graph = graph_of(text, w=weights(*shape), v=weights(*shape, seed=1))
        feeds = feeds_for(graph)
        table = calibrated(graph, feeds)
        typed = quantized_from_graph(graph, table, backend(target).scheme(), threads=1).graph
        return typed, feeds[0], table

    return make


@pytest.mark.parametrize("half", [False, True])
def test_a_layer_in_float_reads_its_tensor_without_the_pair(quantized, half):
    typed, feed, table = quantized(PRODUCTS, "null", (16, 16))
    if half:
        typed = rounding_graph(half_from_graph(typed, Precision.FP16, table.ranges).graph)
    switched = SwitchedGraph(typed, backend("null").scheme(), threads=1)
    first, second = switched.layers
    inside = Evaluator(typed, also=["t", "v_dequantized"], threads=1).run(feed)
    np.testing.assert_array_equal(switched.run(feed)["y"], inside["y"])
    expected = inside["t"].astype(np.float32) @ inside["v_dequantized"].astype(np.float32)
    np.testing.assert_allclose(switched.run(feed, {second})["y"], expected, atol=0.002 if half else 1e-6)
    assert np.abs(inside["y"] - expected).max() > 0.004
    assert np.abs(switched.run(feed, {first})["y"] - inside["y"]).max() > 0.001


def test_what_writes_integers_has_to_be_in_float_too(quantized):
    typed, feed, _ = quantized(CONVOLUTIONS, "cpu", (16, 16, 1, 1))
    scheme = backend("cpu").scheme()
    switched = SwitchedGraph(typed, scheme, threads=1)
    (layer,) = (name for name in switched.layers[-1:])
    inside = Evaluator(typed, also=["b"], threads=1).run(feed)
    # It still reads integers, and its result is no longer rounded to them.
    np.testing.assert_allclose(switched.run(feed, {layer})["y"], np.tanh(inside["b"]), atol=1e-6)
    both = switched.run(feed, switched.layers)["y"]
    assert len(switched.layers) == 2 and np.abs(both - np.tanh(inside["b"])).max() > 1e-3


def test_the_graph_stays_as_it_is(quantized):
    typed, *_ = quantized(PRODUCTS, "null", (16, 16))
    before = [node.name for node in typed.graph], [value.name for value in typed.graph.inputs]
    SwitchedGraph(typed, backend("null").scheme(), threads=1)
    assert ([node.name for node in typed.graph], [value.name for value in typed.graph.inputs]) == before


CHAIN = "a = Conv (x, w)  b = Relu (a)  c = Conv (b, v)  y = Tanh (c)"
SHORTCUT = "a = Conv (x, w)  b = Relu (a)  c = Conv (b, v)  y = Add (b, c)"


@pytest.mark.parametrize(("target", "body"), [("cpu", CHAIN), ("openvino", SHORTCUT), ("tensorrt", SHORTCUT)])
def test_all_layers_in_float_compute_the_float_graph(target, body, graph_of, weights, calibrated, run_in_onnxruntime):
    """Also channels that a backend fills up, corrected biases, and the pair at a shortcut, which float needs not."""
    text = f"g (float[1, 3, 8, 8] x) => (float[1, 16, 8, 8] y) {{ {body} }}"
    graph = graph_of(text, w=weights(16, 3, 1, 1), v=weights(16, 16, 1, 1, seed=1))
    # Pixels, which 8 bits hold: where channels are filled up, the input stays in integers.
    pixels = [np.random.default_rng(seed).integers(0, 256, (1, 3, 8, 8)) for seed in range(2)]
    feeds = [{"x": np.where(each > 250, 255, each).astype(np.float32) / 255} for each in pixels]
    scheme = msgspec.structs.replace(backend(target).scheme(), stem_channels=0, slow_convolutions=())
    typed = quantized_from_graph(graph, calibrated(graph, feeds), scheme, feeds=feeds, threads=1)
    switched = SwitchedGraph(typed.graph, scheme, typed.exact, threads=1)
    (exact,) = run_in_onnxruntime(graph, feeds[:1])
    np.testing.assert_allclose(switched.run(feeds[0], switched.layers)["y"], exact["y"], atol=1e-5)
    (integers,) = run_in_onnxruntime(typed.graph, feeds[:1])
    np.testing.assert_allclose(switched.run(feeds[0])["y"], integers["y"], atol=1e-6)
    assert len(switched.layers) == 2 and np.abs(integers["y"] - exact["y"]).max() > 0.005
