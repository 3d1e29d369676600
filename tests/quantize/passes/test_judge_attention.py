"""The noise of attention with factors of 8 bits, against numpy."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edgekit.engine.backend import backend
from edgekit.quantize.passes.judge_attention import LEAST_DB, PARTS, judged_attentions
from edgekit.quantize.quantize import quantized_from_graph
from tests.decibels import signal_to_noise_db

TOKENS, SIZE = 96, 4
SCHEME = msgspec.structs.replace(backend("openvino").scheme(), attention_keys=48)
ATTENTION = f"""g (float[1, 2, {TOKENS}, {SIZE}] q, float[1, 2, {TOKENS}, {SIZE}] k, float[1, 2, {TOKENS}, {SIZE}] v)
    => (float[1, 2, {TOKENS}, {SIZE}] y) {{
    kt = Transpose <perm = [0, 1, 3, 2]> (k)
    scores = MatMul (q, kt)
    weights = Softmax <axis = -1> (scores)
    y = MatMul (weights, v)
}}"""


def feed(sharpness, seed=0):
    """Makes two heads: queries of the first attend to few keys, and those of the second to all of them."""
    random = np.random.default_rng(seed)
    arrays = {name: random.standard_normal((1, 2, TOKENS, SIZE)).astype(np.float32) for name in "qkv"}
    arrays["q"] *= np.array([sharpness, 0.01], np.float32)[:, None, None]
    arrays["v"] += 1
    return arrays


def rounded(array, lo, hi, signed):
    """Rounds as QuantizeLinear and DequantizeLinear do."""
    if signed:
        scale = max(-lo, hi) / 127
        return np.clip(np.rint(array / scale), -128, 127) * scale
    scale = hi / 255
    return np.clip(np.rint(array / scale), 0, 255) * scale


def attended(q, k, v, cut=None):
    scores = q @ k.swapaxes(-1, -2)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return (weights if cut is None else rounded(weights, 0, cut, False)) @ v


@pytest.fixture
def judged(graph_of, calibrated):
    def judge(arrays):
        graph = graph_of(ATTENTION)
        table = calibrated(graph, [arrays])
        return judged_attentions(graph, SCHEME, table.ranges, [arrays]), table.ranges

    return judge


@pytest.mark.parametrize("sharpness", [0.01, 0.5, 1.0])
def test_the_noise_is_that_of_rounded_factors_with_the_best_range(judged, sharpness):
    arrays = feed(sharpness)
    found, ranges = judged(arrays)
    exact = {name: array.astype(np.float64) for name, array in arrays.items()}
    factors = [rounded(exact[name], *ranges[name], True) for name in "qkv"]
    largest = ranges["weights"][1]
    by_part = {
        part: signal_to_noise_db([attended(*exact.values())], [attended(*factors, largest * part)]) for part in PARTS
    }
    best = max(by_part, key=by_part.get)
    part = best if by_part[best] > by_part[1.0] + 1 else 1.0
    assert found.decibels["weights"] == pytest.approx(by_part[part], abs=0.2)
    assert found.ranges == ({} if part == 1.0 else {"weights": (0.0, pytest.approx(largest * part))})


def test_an_attention_with_flat_and_sharp_heads_is_noisy(judged):
    found, _ = judged(feed(20.0))
    assert found.decibels["weights"] < LEAST_DB
    assert found.noisy == {"scores", "y"}


def test_a_noisy_attention_stays_in_float_with_the_reason(graph_of, calibrated, weights):
    text = ATTENTION.replace("y = MatMul (weights, v)", "m = MatMul (weights, v) y = MatMul (m, w)")
    graph = graph_of(text, w=weights(SIZE, SIZE))
    arrays = feed(20.0)
    plan = quantized_from_graph(graph, calibrated(graph, [arrays]), SCHEME, feeds=[arrays]).plan
    assert plan.skipped.keys() == {"scores", "m"} and set(plan.skipped.values()) == {
        "8 bits for its factors, as of attention, leave too few bits of the result"
    }


def test_the_graph_is_left_as_it_was(graph_of, calibrated):
    graph, arrays = graph_of(ATTENTION), feed(1.0)
    names = [node.name for node in graph.graph]
    judged_attentions(graph, SCHEME, calibrated(graph, [arrays]).ranges, [arrays])
    assert [node.name for node in graph.graph] == names


def test_nothing_is_measured_without_inputs_or_on_other_targets(graph_of, calibrated):
    graph, arrays = graph_of(ATTENTION), feed(1.0)
    ranges = calibrated(graph, [arrays]).ranges
    assert not judged_attentions(graph, SCHEME, ranges, []).decibels
    assert not judged_attentions(graph, backend("cpu").scheme(), ranges, [arrays]).decibels
