"""Products of two computed factors in 8 bits: which lose too much, by numpy."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.engine.backend import backend
from edgekit.quantize.noisy_layers import LEAST_DB
from edgekit.quantize.noisy_products import noisy_products
from edgekit.quantize.plan import NOISY_ATTENTION, plan_from_graph
from edgekit.quantize.quantize import quantized_from_graph
from tests.decibels import signal_to_noise_db

CPU = backend("cpu").scheme()
TOKENS, SIZE = 96, 8
# The weights are no Softmax: they are divided by their sum, as ConViT's are after it has mixed two of them.
MIXED = f"""g (float[1, {TOKENS}, {TOKENS}] a, float[1, {TOKENS}, {SIZE}] v) => (float[1, {TOKENS}, {SIZE}] y) {{
    sum = ReduceSum <keepdims = 1> (a, axes)
    weights = Div (a, sum)
    mean = MatMul (weights, v)
    y = MatMul (mean, last)
}}"""


@pytest.fixture
def graph(graph_of, weights):
    return graph_of(MIXED, axes=np.array([2]), last=weights(SIZE, SIZE))


def feed(sharp: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Makes ``sharp`` rows with weight on one element, and others with weight on all."""
    random = np.random.default_rng(seed)
    rows = random.uniform(0.5, 1.5, (1, TOKENS, TOKENS)).astype(np.float32)
    rows[:, :sharp] = np.eye(TOKENS, dtype=np.float32)[:sharp] + 1e-4
    return {"a": rows, "v": random.standard_normal((1, TOKENS, SIZE)).astype(np.float32)}


def rounded(array: np.ndarray, lo: float, hi: float) -> np.ndarray:
    """Rounds as QuantizeLinear and DequantizeLinear of ``uint8`` do."""
    scale = (hi - lo) / 255
    zero = round(-lo / scale)
    return (np.clip(np.rint(array / scale) + zero, 0, 255) - zero) * scale


@pytest.mark.parametrize("sharp", [0, 2, TOKENS])
def test_a_product_is_noisy_if_its_rounded_factors_leave_too_little(graph, calibrated, sharp: int) -> None:
    arrays = feed(sharp)
    table = calibrated(graph, [arrays])
    plan = plan_from_graph(graph, CPU, ranges=table.ranges)
    assert plan.skipped == {}
    weights = arrays["a"].astype(np.float64)
    weights /= weights.sum(2, keepdims=True)
    v = arrays["v"].astype(np.float64)
    found = rounded(weights, *table.ranges["weights"]) @ rounded(v, *table.ranges["v"])
    is_noisy = signal_to_noise_db([weights @ v], [found]) < LEAST_DB
    assert is_noisy == (sharp == 2)  # the weights of the others all have most of the 256 steps, or are sharp
    assert noisy_products(graph, plan, table.ranges, [arrays], CPU) == ({"mean"} if is_noisy else set())


def test_a_noisy_product_stays_in_float_with_the_reason(graph, calibrated) -> None:
    arrays = feed(2)
    plan = quantized_from_graph(graph, calibrated(graph, [arrays]), CPU, feeds=[arrays]).plan
    assert plan.skipped == {"mean": NOISY_ATTENTION}


def test_nothing_is_measured_without_inputs(graph, calibrated) -> None:
    ranges = calibrated(graph, [feed(2)]).ranges
    assert noisy_products(graph, plan_from_graph(graph, CPU, ranges=ranges), ranges, [], CPU) == frozenset()


def test_the_graph_is_left_as_it_was(graph, calibrated) -> None:
    arrays, names = feed(2), [node.name for node in graph.graph]
    ranges = calibrated(graph, [arrays]).ranges
    noisy_products(graph, plan_from_graph(graph, CPU, ranges=ranges), ranges, [arrays], CPU)
    assert [node.name for node in graph.graph] == names


def test_a_matrix_times_itself_is_judged(graph_of, calibrated) -> None:
    graph = graph_of("g (float[1, 8, 8] x) => (float[1, 8, 8] y) { r = Relu (x) y = MatMul (r, r) }")
    arrays = {"x": np.random.default_rng(1).standard_normal((1, 8, 8)).astype(np.float32)}
    ranges = calibrated(graph, [arrays]).ranges
    plan = plan_from_graph(graph, CPU, ranges=ranges)
    assert [node.op_type for node in plan.nodes] == ["MatMul"]
    assert noisy_products(graph, plan, ranges, [arrays], CPU) == frozenset()
