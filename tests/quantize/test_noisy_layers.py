"""Layers that lose much in 8 bits: which they are, by numpy, and that little work stays in float."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.engine.backend import backend
from edgekit.graph.evaluator import Evaluator
from edgekit.quantize.noisy_layers import INPUTS, LEAST_DB, MOST_TIME, noisy_convolutions
from edgekit.quantize.plan import NOISY_INPUT, plan_from_graph
from edgekit.quantize.qdq import input_limits
from edgekit.quantize.quantize import quantized_from_graph

OPENVINO, CPU = backend("openvino").scheme(), backend("cpu").scheme()
CHANNELS = 8
NAME = "difference"


@pytest.fixture
def network(graph_of, weights):
    """A stem, a 1x1 convolution of the differences between channels, and a large convolution."""

    def build(difference: float):
        # All channels of the stem are nearly the same, and large; the second layer reads only how they differ.
        first = np.tile(weights(1, 3, 3, 3), (CHANNELS, 1, 1, 1)) * 20
        first += difference * weights(CHANNELS, 3, 3, 3, seed=1)
        second = np.eye(CHANNELS, dtype=np.float32) - 1 / CHANNELS
        graph = graph_of(
            "g (float[1, 3, 16, 16] x) => (float[1, 512, 16, 16] y) {"
            "a = Conv <pads = [1, 1, 1, 1]> (x, w1) r = Relu (a) d = Conv (r, w2) "
            "s = Relu (d) y = Conv <pads = [1, 1, 1, 1]> (s, w3) }",
            w1=first,
            w2=second[:, :, None, None].astype(np.float32),
            w3=weights(512, CHANNELS, 3, 3, seed=2),
        )
        next(node for node in graph.graph if node.outputs[0].name == "d").name = NAME
        return graph

    return build


def feeds_of(count: int = 4) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(3)
    return [{"x": random.random((1, 3, 16, 16), np.float32)} for _ in range(count)]


def found(graph, table, feeds) -> frozenset[str]:
    plan = plan_from_graph(graph, OPENVINO, ranges=table.ranges)
    return noisy_convolutions(graph, plan, input_limits(plan, table.ranges, OPENVINO), feeds, OPENVINO, threads=1)


def loss_db(graph, feeds, hi: float) -> float:
    """By definition: rounds the stem's output to 255 steps, and takes the differences of its channels again."""
    second = np.eye(CHANNELS) - 1 / CHANNELS
    signal = noise = 0.0
    for feed in feeds[:: len(feeds) // INPUTS]:
        values = Evaluator(graph, also=["r"], threads=1).run(dict(feed))
        stem = values["r"].astype(np.float64).reshape(CHANNELS, -1)
        step = hi / 255
        exact, got = second @ stem, second @ (np.clip(np.rint(stem / step), 0, 255) * step)
        signal += np.square(exact - exact.mean(1, keepdims=True)).sum()
        noise += np.square(got - exact).sum()
    return float(10 * np.log10(signal / noise))


@pytest.mark.parametrize("difference", [0.3, 3.0, 5.0, 8.0, 20.0])
def test_a_convolution_is_kept_if_the_rounding_of_its_input_leaves_little(network, calibrated, difference):
    graph, feeds = network(difference), feeds_of()
    table = calibrated(graph, feeds)
    expected = loss_db(graph, feeds, table.ranges["r"][1])
    assert abs(expected - LEAST_DB) > 0.3, "the case decides nothing"
    assert found(graph, table, feeds) == ({NAME} if expected < LEAST_DB else frozenset())


def test_nothing_is_kept_without_inputs(network, calibrated):
    graph, feeds = network(0.3), feeds_of()
    assert found(graph, calibrated(graph, feeds), []) == frozenset()


def test_a_large_part_of_the_work_is_never_kept(network, calibrated, monkeypatch):
    graph, feeds = network(0.3), feeds_of()
    share = CHANNELS * CHANNELS / (CHANNELS * (27 + CHANNELS + 512 * 9))
    assert share < MOST_TIME / (OPENVINO.float_time - 1)
    table = calibrated(graph, feeds)
    monkeypatch.setattr("edgekit.quantize.noisy_layers.MOST_TIME", 0.99 * share * (OPENVINO.float_time - 1))
    assert found(graph, table, feeds) == frozenset()


def test_the_layer_reads_floats_and_the_network_has_less_noise(network, calibrated, run_in_onnxruntime, sqnr_db):
    graph, feeds = network(0.3), feeds_of()
    table = calibrated(graph, feeds)
    with_feeds, without = (quantized_from_graph(graph, table, OPENVINO, feeds=f, threads=1) for f in (feeds, ()))
    assert with_feeds.plan.skipped[NAME] == NOISY_INPUT and NAME not in without.plan.skipped

    exact = run_in_onnxruntime(graph, feeds)
    kept_db, plain_db = (sqnr_db(exact, run_in_onnxruntime(each.graph, feeds))["y"] for each in (with_feeds, without))
    assert kept_db > plain_db + 3


def test_the_middle_of_integer_layers_stays_on_integers(network, calibrated):
    graph, feeds = network(0.3), feeds_of()
    ranges = calibrated(graph, feeds).ranges
    plan = plan_from_graph(graph, CPU, ranges=ranges)
    assert any(node.name == NAME for node in plan.nodes)
    assert noisy_convolutions(graph, plan, input_limits(plan, ranges, CPU), feeds, CPU, threads=1) == frozenset()
