"""Noise by layer, on a graph in which one layer is spoiled on purpose."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.engine.backend import backend
from edgekit.graph.evaluator import Evaluator
from edgekit.quantize.layer_noise import first_collapse, layer_noise, nodes_on_integers, noisiest
from edgekit.quantize.quantize import quantized_from_graph

TEXT = """g (float[1, 8, 8, 8] x) => (float[1, 8, 8, 8] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1)  r = Relu (a)  b = Conv <pads = [1, 1, 1, 1]> (r, w2)  s = Relu (b)
    y = Conv <pads = [1, 1, 1, 1]> (s, w3) }"""
SCHEME = backend("openvino").scheme()


@pytest.fixture
def graph(graph_of, weights):
    return graph_of(TEXT, w1=weights(8, 8, 3, 3), w2=weights(8, 8, 3, 3), w3=weights(8, 8, 3, 3))


def values_of(graph: ir.Model, feeds):
    return lambda names: [Evaluator(graph, also=names, threads=1).run(dict(feed)) for feed in feeds]


def test_the_spoiled_layer_is_named(graph, feeds_for):
    feeds = feeds_for(graph, 2)
    spoiled = graph.clone()
    node = next(each for each in spoiled.graph if len(each.inputs) > 1 and each.inputs[1].name == "w2")
    weight = node.inputs[1].const_value.numpy()
    node.inputs[1].const_value = ir.tensor(weight + np.float32(0.3), name="w2")
    layers = layer_noise(graph.graph, spoiled.graph, values_of(graph, feeds), values_of(spoiled, feeds))
    by_value = {each.value: each for each in layers}
    assert by_value["a"].sqnr_db == by_value["r"].sqnr_db == 200.0
    expected = values_of(graph, feeds)(["b"]), values_of(spoiled, feeds)(["b"])
    signal, noise = (
        sum(float(np.sum(np.square(each, dtype=np.float64))) for each in arrays)
        for arrays in (
            [a["b"] for a in expected[0]],
            [a["b"].astype(np.float64) - b["b"] for a, b in zip(*expected, strict=True)],
        )
    )
    assert by_value["b"].sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=0.01)
    found = first_collapse(layers, 60.0)
    assert found is not None and found.value == "b"


def test_noise_of_a_quantized_graph_grows_from_layer_to_layer(graph, feeds_for, calibrated):
    feeds = feeds_for(graph, 2)
    typed = quantized_from_graph(graph, calibrated(graph, feeds), SCHEME).graph
    integers = nodes_on_integers(typed.graph)
    compared = (graph.graph, typed.graph, values_of(graph, feeds), values_of(typed, feeds))
    layers = layer_noise(*compared, integers=integers, scaled=True)
    decibels = [each.sqnr_db for each in layers if each.op_type == "Conv"]
    assert decibels == sorted(decibels, reverse=True) and 20 < decibels[-1] < decibels[0] < 60
    assert all(each.quantized for each in layers if each.op_type == "Conv")
    worst = noisiest(layers, 2)
    assert len(worst) == 2 and worst[0].added >= worst[1].added > 0
    assert first_collapse(layers, 10.0) is None


@pytest.mark.parametrize(("rows", "least_db", "most_db"), [(197, 199, 200), (1, -50, 10)])
def test_a_gain_of_each_channel_of_many_rows_is_no_noise_where_channels_are_smoothed(graph_of, rows, least_db, most_db):
    """A network divides the channels of a normalization's output, and multiplies the weights that read it."""
    random = np.random.default_rng(0)
    text = (
        f"g (float[1, {rows}, 16] x) => (float[1, {rows}, 16] y) {{ n = LayerNormalization (x, g)  y = MatMul (n, w) }}"
    )
    graph = graph_of(
        text,
        g=random.uniform(1, 20, 16).astype(np.float32),
        w=random.standard_normal((16, 16)).astype(np.float32),
    )
    smoothed = graph.clone()
    gain = random.permutation(2.0 ** np.arange(-8, 8)).astype(np.float32)  # without rounding
    for node, index, factors in ((0, 1, gain), (1, 1, 1 / gain[:, None])):
        value = smoothed.graph[node].inputs[index]
        value.const_value = ir.tensor(value.const_value.numpy() * factors, name=value.name)
    feeds = [{"x": random.standard_normal((1, rows, 16)).astype(np.float32)}]
    compared = (graph.graph, smoothed.graph, values_of(graph, feeds), values_of(smoothed, feeds))
    by_value = {each.value: each.sqnr_db for each in layer_noise(*compared, scaled=True)}
    # One row says nothing of its gains: any difference could be one.
    assert least_db <= by_value["n"] <= most_db and by_value["y"] > 100
    assert {each.value: each.sqnr_db for each in layer_noise(*compared)}["n"] < 10


def test_a_gain_of_each_channel_is_no_noise_where_channels_are_equalized(graph, feeds_for):
    feeds = feeds_for(graph, 1)
    scaled = graph.clone()
    gains = np.linspace(0.5, 2, 8, dtype=np.float32)
    for name, factor in (("w1", gains[:, None, None, None]), ("w2", 1 / gains[None, :, None, None])):
        value = scaled.graph.initializers[name]
        value.const_value = ir.tensor(value.const_value.numpy() * factor, name=name)
    compared = (graph.graph, scaled.graph, values_of(graph, feeds), values_of(scaled, feeds))
    assert min(each.sqnr_db for each in layer_noise(*compared, scaled=True)) > 100
    assert min(each.sqnr_db for each in layer_noise(*compared)) < 20


def test_the_comparison_ends_soon_behind_the_first_layer_that_collapses(graph, feeds_for, monkeypatch):
    monkeypatch.setattr("edgekit.quantize.layer_noise.VALUES_AT_ONCE", 1)
    feeds = feeds_for(graph, 1)
    spoiled = graph.clone()
    node = next(each for each in spoiled.graph if len(each.inputs) > 1 and each.inputs[1].name == "w2")
    node.inputs[1].const_value = ir.tensor(np.full((8, 8, 3, 3), 3, np.float32), name="w2")
    compared = (graph.graph, spoiled.graph, values_of(graph, feeds), values_of(spoiled, feeds))
    everything = layer_noise(*compared)
    some = layer_noise(*compared, until_db=20.0)
    assert [each.value for each in some] == ["a", "r", "b"] and some == everything[:3]
    assert first_collapse(some, 20.0) == first_collapse(everything, 20.0)
