"""Convolutions whose inputs differ much in range, compared with ONNX Runtime on the graph as it was."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edgekit.engine.backend import backend
from edgekit.quantize.half.cast import half_from_graph
from edgekit.quantize.half.check import rounding_graph
from edgekit.quantize.passes.own_ranges import own_ranges
from edgekit.quantize.plan import plan_from_graph
from edgekit.quantize.qdq import input_limits
from edgekit.quantize.quantize import quantized_from_graph

SCHEMES = {name: backend(name).scheme() for name in ("cpu", "openvino", "tensorrt-rtx")}
CHANNELS, LENGTH = 256, 32
BODIES = {
    "with bias, padded": "h = Tanh (x)  s = Mul (h, gain)  c = Conv <pads = [2, 2]> (s, w, b)  y = Gelu (c)",
    "with bias": "s = Mul (x, gain)  y = Conv (s, w, b)",
    "without bias": "s = Mul (x, gain)  y = Conv (s, w)",
    "two readers and positive": "s = Relu (x)  c = Conv (s, w, b)  d = Conv (s, v)  y = Sub (c, d)",
}
SCALES = (1.0, 20.0, 1.5, 1.0)


def feeds(seed, scales=SCALES):
    rng = np.random.default_rng(seed)
    return [{"x": (rng.standard_normal((1, CHANNELS, LENGTH)) * each).astype(np.float32)} for each in scales]


@pytest.fixture
def graph(graph_of, weights):
    def make(name):
        text = BODIES[name]
        constants = {"w": weights(CHANNELS, CHANNELS, 5), "v": weights(CHANNELS, CHANNELS, 5, seed=1)}
        constants |= {"b": weights(CHANNELS, 1).ravel(), "gain": np.float32(4)}
        words = text.replace(",", " ").replace(")", " ").split()
        used = {key: array for key, array in constants.items() if key in words}
        length = LENGTH if "padded" in name else LENGTH - 4
        header = f"g (float[1, {CHANNELS}, {LENGTH}] x) => (float[1, {CHANNELS}, {length}] y)"
        return graph_of(f"{header} {{ {text} }}", **used)

    return make


def rewritten(model, table, scheme, inputs):
    changed = model.clone(deep_copy=False)
    plan = plan_from_graph(changed, scheme, ranges=table.ranges)
    limits = input_limits(plan, table.ranges, scheme)
    return changed, own_ranges(changed, plan, table.ranges, table.typical, limits, inputs, threads=1)


def count(graph, operator):
    return sum(node.op_type == operator for node in graph.graph)


@pytest.mark.parametrize("name", ["with bias", "without bias", "two readers and positive"])
def test_results_stay_the_same(graph, calibrated, run_in_onnxruntime, name):
    model, inputs = graph(name), feeds(0)
    changed, ranges = rewritten(model, calibrated(model, inputs), SCHEMES["openvino"], inputs)
    assert count(changed, "Div") == 1
    divided = next(node.outputs[0].name for node in changed.graph if node.op_type == "Div")
    assert ranges[divided] == (0.0 if "positive" in name else -1.0, 1.0)
    tried = [*feeds(1), {"x": np.zeros((1, CHANNELS, LENGTH), np.float32)}]
    expected, got = (run_in_onnxruntime(each, tried) for each in (model, changed))
    for one, other in zip(expected, got, strict=True):
        np.testing.assert_allclose(other["y"], one["y"], atol=1e-5 * max(1, np.abs(one["y"]).max()))


def test_inputs_of_one_sign_use_all_steps(graph, calibrated, run_in_onnxruntime):
    model = graph("with bias")
    inputs = [{"x": each["x"] + 3 * scale} for each, scale in zip(feeds(0), SCALES, strict=True)]
    table = calibrated(model, inputs)
    assert min(lo for lo, _ in table.ranges.values()) < 0
    changed, _ = rewritten(model, table, SCHEMES["openvino"], inputs)
    quotient = next(node.outputs[0] for node in changed.graph if node.op_type == "Div")
    changed.graph.outputs.append(quotient)
    tried = [{"x": each["x"] + 6} for each in feeds(1, (1.0, 2.0))]
    for one, other in zip(run_in_onnxruntime(model, tried), run_in_onnxruntime(changed, tried), strict=True):
        np.testing.assert_allclose(other["y"], one["y"], atol=1e-5 * np.abs(one["y"]).max())
        assert (other[quotient.name].min(), other[quotient.name].max()) == pytest.approx((-1, 1), abs=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["with bias", "without bias", "two readers and positive"])
def test_inputs_of_small_range_lose_less(graph, calibrated, run_in_onnxruntime, sqnr_db, scheme, name):
    model, inputs, held = graph(name), feeds(0), feeds(1, (1.0,))
    table, exact = calibrated(model, inputs), run_in_onnxruntime(model, held)
    static = msgspec.structs.replace(SCHEMES[scheme], own_ranges=False)
    found = [
        quantized_from_graph(model, table, each, feeds=inputs, threads=1).graph for each in (static, SCHEMES[scheme])
    ]
    before, after = (sqnr_db(exact, run_in_onnxruntime(each, held))["y"] for each in found)
    assert after > before + 10


@pytest.mark.parametrize(
    ("name", "scales", "given"),
    [
        ("without bias", (1.0, 1.2, 0.9, 1.0), True),
        ("with bias, padded", SCALES, True),
        ("without bias", SCALES, False),
    ],
)
def test_others_stay(graph, calibrated, name, scales, given):
    """Inputs of one range, a range that Tanh makes the same for all, and nothing to observe outputs on."""
    model, inputs = graph(name), feeds(0, scales)
    table = calibrated(model, inputs)
    changed, ranges = rewritten(model, table, SCHEMES["openvino"], inputs if given else [])
    assert ranges == table.ranges
    assert not count(changed, "Div")


def test_a_bias_and_pads_stay_right(graph, calibrated, run_in_onnxruntime):
    """What Tanh limits is divided if the table says so."""
    model, inputs = graph("with bias, padded"), feeds(0)
    table = calibrated(model, inputs)
    typical = {name: each / 30 for name, each in table.typical.items()}
    ranges = {name: (lo * 30, hi * 30) for name, (lo, hi) in table.ranges.items()}
    table = msgspec.structs.replace(table, ranges=ranges, typical=typical)
    changed, _ = rewritten(model, table, SCHEMES["openvino"], inputs)
    assert count(changed, "Div") == 1
    expected, got = (run_in_onnxruntime(each, feeds(1))[0]["y"] for each in (model, changed))
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("name", BODIES)
def test_in_half_precision_zeros_and_large_values_stay_right(graph, calibrated, run_in_onnxruntime, name):
    """A divisor of 1e-20 would be zero in FP16, and zeros divided by it no numbers."""
    scheme = SCHEMES["tensorrt-rtx"]
    model = graph(name)
    inputs = feeds(0)
    table = calibrated(model, inputs)
    if "padded" in name:  # what Tanh limits is divided if the table says so
        ranges = {tensor: (lo * 30, hi * 30) for tensor, (lo, hi) in table.ranges.items()}
        typical = {tensor: each / 30 for tensor, each in table.typical.items()}
        table = msgspec.structs.replace(table, ranges=ranges, typical=typical)
    found = quantized_from_graph(model, table, scheme, feeds=inputs, threads=1)
    assert count(found.graph, "Div") == 1
    half = half_from_graph(found.graph, scheme.rest, {**table.ranges, **found.ranges})
    assert not any("own" in kept or "multiplied" in kept for kept in half.kept)
    size = 1000.0 if "padded" in name else 50.0
    tried = [{"x": np.zeros((1, CHANNELS, LENGTH), np.float32)}, *feeds(1, (size,))]
    expected, got = (run_in_onnxruntime(each, tried) for each in (model, rounding_graph(half.graph)))
    np.testing.assert_allclose(got[0]["y"], expected[0]["y"], atol=1e-3)
    noise = np.square(got[1]["y"] - expected[1]["y"]).mean() / np.square(expected[1]["y"]).mean()
    assert noise < 10**-3


def test_the_typical_magnitude_is_that_of_the_geometric_mean(graph, calibrated):
    model, inputs = graph("without bias"), feeds(0)
    largest = [np.abs(each["x"]).max() for each in inputs]
    zeros = {"x": np.zeros((1, CHANNELS, LENGTH), np.float32)}
    found = calibrated(model, [*inputs, zeros]).typical["x"]
    assert found == pytest.approx(np.exp(np.log(largest).mean()))
