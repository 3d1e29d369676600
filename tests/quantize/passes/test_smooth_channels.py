"""Smoothing of outlier channels, compared with the float graph in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.engine.backend import backend
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.passes import InferShapes
from edgekit.quantize.calibrate.collect import (
    CalibrationTable,
    collect_statistics,
    observed_tensors,
    ranges_from_statistics,
)
from edgekit.quantize.half.check import rounding_graph
from edgekit.quantize.passes import observed_channels
from edgekit.quantize.passes.observed_channels import ObservedChannels
from edgekit.quantize.passes.smooth_channels import smoothed_ranges
from edgekit.quantize.plan import QuantPolicy
from edgekit.quantize.quantize import quantized_from_graph, require_quantizable

SCHEMES = {name: backend(name).scheme() for name in ("cpu", "openvino", "null")}
WIDTH = 32
OUTLIERS = np.where(np.arange(WIDTH) % 11 == 3, 25.0, 1.0).astype(np.float32)

BODIES = {
    "LayerNormalization": "n = LayerNormalization <axis = -1> (x, gamma, beta)  y = MatMul (n, w)",
    "decomposed RMS": "q = Mul (x, x)  m = ReduceMean <keepdims = 1> (q, axes)  r = Sqrt (m)  u = Div (x, r) "
    "n = Mul (u, gamma)  y = MatMul (n, w)",
    "normalization by Mul and Add": "u = Tanh (x)  s = Mul (gamma, u)  n = Add (s, beta)  y = MatMul (n, w)",
    "two readers behind a Reshape": "n = LayerNormalization <axis = -1> (x, gamma, beta)  f = Reshape (n, rows) "
    "a = Gemm (f, w)  b = Gemm <transB = 1> (f, v)  y = Add (a, b)",
    "gated": "a = Tanh (x)  g = MatMul (x, up)  n = Mul (a, g)  y = MatMul (n, w)",
    "residual": "n = LayerNormalization <axis = -1> (x, gamma, beta)  p = MatMul (n, w)  y = Add (n, p)",
    "GELU": "s = Mul (x, gamma)  n = Gelu (s)  y = MatMul (n, w)",
}
WITH_MUL = {"residual", "GELU"}


@pytest.fixture
def graph(graph_of, weights):
    def build(name: str, gamma: np.ndarray = OUTLIERS) -> ir.Model:
        rank = "N" if "Gemm" in BODIES[name] else "2, 12"
        text = f"g (float[2, 12, {WIDTH}] x) => (float[{rank}, {WIDTH}] y) {{ {BODIES[name]} }}"
        constants = {
            "gamma": gamma,
            "beta": weights(1, WIDTH).ravel() * gamma,
            "w": weights(WIDTH, WIDTH) / gamma[:, None],  # a trained model reads all channels alike
            "v": (weights(WIDTH, WIDTH) / gamma[:, None]).T.copy(),
            "up": weights(WIDTH, WIDTH) * gamma,
            "axes": np.array([-1]),
            "rows": np.array([-1, WIDTH]),
        }
        found = graph_of(text, **{key: value for key, value in constants.items() if f"{key}" in text.split("{")[1]})
        InferShapes()(found)
        return found

    return build


def feeds(seed: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(2, 12, WIDTH)).astype(np.float32)} for _ in range(4)]


def outputs(graph: ir.Model, inputs: list[dict[str, np.ndarray]]) -> np.ndarray:
    evaluator = Evaluator(graph, threads=1)
    return np.stack([evaluator.run(feed)["y"] for feed in inputs])


def table(graph: ir.Model) -> CalibrationTable:
    named = [(str(i), feed) for i, feed in enumerate(feeds(0))]
    seen = collect_statistics(graph, observed_tensors(graph), named, method="minmax", threads=1)
    ranges = ranges_from_statistics(seen.statistics, "minmax")
    return CalibrationTable(method="minmax", set="", set_digest="", graph_digest="", images=4, ranges=ranges)


def db(exact: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10(np.square(exact).sum() / np.square(exact - got).sum()))


def smoothed(graph: ir.Model, scheme: str = "cpu") -> tuple[ir.Model, dict[str, tuple[float, float]]]:
    copy, ranges = graph.clone(deep_copy=False), table(graph).ranges
    plan = require_quantizable(copy, SCHEMES[scheme], QuantPolicy(), ranges)
    return copy, smoothed_ranges(copy, plan, ranges, SCHEMES[scheme], feeds(0), threads=1)


@pytest.mark.parametrize("name", BODIES)
def test_smoothing_changes_no_output_and_inserts_a_mul_only_where_no_constant_can_be_divided(graph, name):
    model = graph(name)
    new, _ = smoothed(model)
    inputs = feeds(1)
    np.testing.assert_allclose(outputs(new, inputs), outputs(model, inputs), rtol=1e-3, atol=1e-3)
    inserted = sum(node.op_type == "Mul" for node in new.graph) - sum(node.op_type == "Mul" for node in model.graph)
    assert inserted == (name in WITH_MUL)


@pytest.mark.parametrize("name", BODIES)
def test_the_float_graph_runs_once_for_a_graph_that_is_quantized_several_times(graph, name, monkeypatch):
    model = graph(name)
    ranges, seen, made = table(model).ranges, ObservedChannels(), []
    monkeypatch.setattr(
        observed_channels, "Evaluator", lambda *args, **names: made.append(1) or Evaluator(*args, **names)
    )
    alone, ranges_alone = smoothed(model)
    del made[:]
    for _ in range(2):
        copy = model.clone(deep_copy=False)
        plan = require_quantizable(copy, SCHEMES["cpu"], QuantPolicy(), ranges)
        assert smoothed_ranges(copy, plan, ranges, SCHEMES["cpu"], feeds(0), threads=1, known=seen) == ranges_alone
        np.testing.assert_array_equal(outputs(copy, feeds(1)), outputs(alone, feeds(1)))
    assert len(made) == 1


@pytest.mark.parametrize("name", BODIES)
def test_new_ranges_are_those_of_the_new_graph(graph, name):
    new, ranges = smoothed(graph(name))
    inputs = {value.name for value in new.graph.inputs}
    names = [key for key in ranges if key not in inputs]
    evaluator = Evaluator(new, also=names, threads=1)
    runs = [evaluator.run(feed) for feed in feeds(0)]
    for key in names:
        largest = max(float(np.abs(run[key]).max()) for run in runs)
        assert max(-ranges[key][0], ranges[key][1]) == pytest.approx(largest, rel=1e-3), key


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["LayerNormalization", "decomposed RMS", "residual", "GELU"])
def test_products_of_outlier_channels_lose_less_to_rounding(graph, name, scheme):
    model, inputs = graph(name), feeds(1)
    seen, exact = table(model), outputs(model, inputs)
    plain = quantized_from_graph(model, seen, SCHEMES[scheme]).graph
    better = quantized_from_graph(model, seen, SCHEMES[scheme], feeds=feeds(0), threads=1).graph
    before, after = (db(exact, outputs(rounding_graph(each), inputs)) for each in (plain, better))
    assert after > before + 2


def test_a_graph_without_outliers_gets_no_mul(graph):
    model = graph("residual", np.ones(WIDTH, np.float32))
    assert len(list(smoothed(model)[0].graph)) == len(list(model.graph))


def test_a_weight_that_another_node_reads_stays_as_it_was(graph_of, weights):
    text = f"g (float[2, 12, {WIDTH}] x) => (float[2, 12, {WIDTH}] y) {{ n = LayerNormalization (x, gamma) "
    text += "p = MatMul (n, w)  z = MatMul (x, w)  y = Add (p, z) }"
    model = graph_of(text, gamma=OUTLIERS, w=weights(WIDTH, WIDTH) / OUTLIERS[:, None])
    InferShapes()(model)
    new, _ = smoothed(model)
    assert len(new.graph.initializers) == 3
    np.testing.assert_allclose(outputs(new, feeds(1)), outputs(model, feeds(1)), rtol=1e-3, atol=1e-3)
