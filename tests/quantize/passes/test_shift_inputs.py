"""Inputs of matrix products that are shifted into the middle of their range, compared with the graph as it was."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from edgekit.engine.backend import backend
from edgekit.quantize.half.cast import half_from_graph
from edgekit.quantize.half.check import rounding_graph
from edgekit.quantize.layer_switches import SwitchedGraph
from edgekit.quantize.passes.shift_inputs import shift_inputs
from edgekit.quantize.plan import NOTHING_KEPT
from edgekit.quantize.qdq import input_limits
from edgekit.quantize.quantize import quantized_from_graph, require_quantizable

SCHEME = backend("tensorrt-rtx").scheme()
SHIFTED = replace(NOTHING_KEPT, shift_inputs=True)
WIDTH = 64
BODIES = {
    "MatMul with a bias": "r = Relu (x)  p = MatMul (r, w)  y = Add (p, b)",
    "MatMul with a bias before it": "r = Relu (x)  p = MatMul (r, w)  y = Add (b, p)",
    "MatMul without a bias": "g = Gelu (x)  p = MatMul (g, w)  y = Tanh (p)",
    "MatMul as output": "g = Gelu (x)  y = MatMul (g, w)",
    "two readers": "g = Gelu (x)  p = MatMul (g, w)  q = MatMul (g, v)  y = Sub (p, q)",
    "read by others": "r = Relu (x)  p = MatMul (r, w)  y = Add (p, r)",
    "Gemm with a bias": "r = Relu (x)  y = Gemm (r, w, b)",
    "Gemm without a bias": "r = Relu (x)  y = Gemm <transB = 1> (r, w)",
}
OTHERS = {
    "both signs": "t = Tanh (x)  y = MatMul (t, w)",
    "an input of the graph": "y = MatMul (x, w)",
    "a convolution reads it too": "r = Relu (x)  p = MatMul (r, w)  s = Reshape (r, image)  c = Conv (s, k)  "
    "t = Reshape (c, tokens)  y = Add (p, t)",
}


def feeds(seed):
    """Inputs with a few large values in each channel, all of one size."""
    rng = np.random.default_rng(seed)
    normal, places = rng.standard_normal((4, WIDTH, WIDTH)), rng.random((4, WIDTH, WIDTH))
    arrays = np.where(places < 1 / 60, 12 * np.sign(normal), normal / 2)
    return [{"x": each.astype(np.float32)} for each in arrays]


@pytest.fixture
def graph(graph_of, weights):
    def make(text):
        constants = {"w": weights(WIDTH, WIDTH), "v": weights(WIDTH, WIDTH, seed=1), "b": weights(WIDTH, 1).ravel()}
        constants |= {"image": np.array([1, WIDTH, WIDTH, 1]), "tokens": np.array([WIDTH, WIDTH])}
        constants["k"] = weights(WIDTH, WIDTH, 1, 1)
        words = text.replace(",", " ").replace(")", " ").replace("(", " ").split()
        used = {key: array for key, array in constants.items() if key in words}
        return graph_of(f"g (float[{WIDTH}, {WIDTH}] x) => (float[{WIDTH}, {WIDTH}] y) {{ {text} }}", **used)

    return make


def shifted(model, table, inputs):
    changed = model.clone(deep_copy=False)
    plan = require_quantizable(changed, SCHEME, NOTHING_KEPT, table.ranges)
    limits = input_limits(plan, table.ranges, SCHEME)
    return changed, shift_inputs(changed, plan, table.ranges, limits, inputs, threads=1)


def count(graph, operator):
    return sum(node.op_type == operator for node in graph.graph)


@pytest.mark.parametrize("name", BODIES)
def test_results_stay_the_same(graph, calibrated, run_in_onnxruntime, name):
    model, inputs = graph(BODIES[name]), feeds(0)
    before = count(model, "Sub")
    changed, found = shifted(model, calibrated(model, inputs), inputs)
    assert count(changed, "Sub") == before + 1
    (difference,) = (value for value in found.ranges if value.endswith("_shifted"))
    lo, hi = found.ranges[difference]
    assert -lo == pytest.approx(hi, rel=2**-9)
    expected, got = (run_in_onnxruntime(each, feeds(1)) for each in (model, changed))
    for one, other in zip(expected, got, strict=True):
        np.testing.assert_allclose(other["y"], one["y"], atol=1e-4)


def test_a_product_reads_the_sum_of_a_shifted_one(graph, calibrated, run_in_onnxruntime, sqnr_db):
    model, inputs = graph("g = Gelu (x)  p = MatMul (g, w)  y = MatMul (p, v)"), feeds(0)
    table = calibrated(model, inputs)
    found = quantized_from_graph(model, table, SCHEME, SHIFTED, feeds=inputs, threads=1)
    assert count(found.graph, "Sub") == 1 and count(found.graph, "Add") == 1
    expected, got = (run_in_onnxruntime(each, feeds(1)) for each in (model, found.graph))
    assert sqnr_db(expected, got)["y"] > 25


def test_a_shifted_sum_is_shifted_too(graph_of, calibrated, weights, run_in_onnxruntime):
    """One row with large numbers sets the ranges of both tensors, which are positive."""
    shape = f"float[{WIDTH}, {WIDTH}]"
    model = graph_of(
        f"g ({shape} x) => ({shape} y) {{ r = Relu (x)  p = MatMul (r, w)  y = MatMul (p, v) }}",
        w=np.abs(weights(WIDTH, WIDTH)),
        v=weights(WIDTH, WIDTH, seed=1),
    )
    scales = np.where(np.arange(WIDTH) == 0, 40, 1)[:, None].astype(np.float32)
    inputs = [{"x": feed["x"] * scales} for feed in feeds(0)]
    changed, _ = shifted(model, calibrated(model, inputs), inputs)
    assert count(changed, "Sub") == 2
    expected, got = (run_in_onnxruntime(each, inputs) for each in (model, changed))
    for one, other in zip(expected, got, strict=True):
        np.testing.assert_allclose(other["y"], one["y"], atol=1e-5 * np.abs(one["y"]).max())


@pytest.mark.parametrize("name", OTHERS)
def test_others_stay(graph, calibrated, name):
    model, inputs = graph(OTHERS[name]), feeds(0)
    table = calibrated(model, inputs)
    changed, found = shifted(model, table, inputs)
    assert found.ranges == table.ranges and not found.offsets
    assert not count(changed, "Sub")


def test_nothing_is_shifted_without_inputs_to_measure_on(graph, calibrated):
    model = graph(BODIES["MatMul as output"])
    changed, found = shifted(model, calibrated(model, feeds(0)), [])
    assert not found.offsets and not count(changed, "Sub")


def test_an_input_that_loses_little_stays(graph, calibrated):
    """Half of a Sigmoid's outputs are near its largest one."""
    model, inputs = graph("s = Sigmoid (x)  y = MatMul (s, w)"), feeds(0)
    table = calibrated(model, inputs)
    assert table.ranges["s"][0] == 0
    changed, found = shifted(model, table, inputs)
    assert not found.offsets and not count(changed, "Sub")


@pytest.mark.parametrize("name", BODIES)
def test_a_product_keeps_more(graph, calibrated, run_in_onnxruntime, sqnr_db, name):
    """Of the noise, the rounding of the weights stays; that of the input is a quarter."""
    model, inputs = graph(BODIES[name]), feeds(0)
    table, exact = calibrated(model, inputs), run_in_onnxruntime(model, feeds(1))
    typed = {}
    for policy in (NOTHING_KEPT, SHIFTED):
        found = quantized_from_graph(model, table, SCHEME, policy, feeds=inputs, threads=1)
        typed[policy] = half_from_graph(found.graph, SCHEME.rest, {**table.ranges, **found.ranges}).graph
    before, after = (sqnr_db(exact, run_in_onnxruntime(rounding_graph(each), feeds(1)))["y"] for each in typed.values())
    assert after > before + 2


@pytest.mark.parametrize("name", BODIES)
def test_without_zero_points_alone(graph, calibrated, name):
    model, inputs = graph(BODIES[name]), feeds(0)
    table = calibrated(model, inputs)
    scheme = msgspec.structs.replace(SCHEME, shift_inputs=False)
    for each, policy in ((scheme, SHIFTED), (SCHEME, NOTHING_KEPT)):
        found = quantized_from_graph(model, table, each, policy, feeds=inputs, threads=1)
        assert count(found.graph, "Sub") == count(model, "Sub")


@pytest.mark.parametrize("name", BODIES)
def test_in_float_a_layer_adds_no_noise(graph, calibrated, run_in_onnxruntime, name):
    """Its bias is that for weights which are not rounded then."""
    model, inputs = graph(BODIES[name]), feeds(0)
    found = quantized_from_graph(model, calibrated(model, inputs), SCHEME, SHIFTED, feeds=inputs, threads=1)
    switched = SwitchedGraph(found.graph, SCHEME, found.exact, threads=1)
    assert switched.layers
    expected = run_in_onnxruntime(model, feeds(1))[0]["y"]
    np.testing.assert_allclose(switched.run(feeds(1)[0], switched.layers)["y"], expected, atol=1e-4)
    assert np.abs(switched.run(feeds(1)[0])["y"] - expected).max() > 1e-3
