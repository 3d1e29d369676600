from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from edgekit.measure.confidence import percentile_bounds
from edgekit.measure.latency import statistics_ms
from edgekit.measure.relative import (
    Compared,
    Limit,
    Ratio,
    limit_from_text,
    ratio_of_pooled_rounds,
    ratio_of_rounds,
    ratio_of_samples,
    result_of_limit,
)

RATIO = 1.31


def rounds(
    random: np.random.Generator, level_ms: float, count: int = 10, *, shared: np.ndarray | None = None
) -> list[np.ndarray]:
    """Runs of each round; pages move a round by 2 %, and what slows a whole round is in ``shared``."""
    drift = np.ones(count) if shared is None else shared
    levels = level_ms * drift * np.exp(0.02 * random.standard_normal(count))
    return [level * (1 + 0.01 * random.gamma(2, 1, 50)) for level in levels]


def test_the_ratio_is_the_geometric_mean_of_the_rounds_ratios() -> None:
    own, base = rounds(np.random.default_rng(0), 13.1), rounds(np.random.default_rng(1), 10)
    expected = stats.gmean([np.median(a) / np.median(b) for a, b in zip(own, base, strict=True)])
    found = ratio_of_rounds(own, base, np.median)
    assert found.value == pytest.approx(expected)
    assert found.low is not None and found.high is not None and found.low < found.value < found.high


def test_95_percent_intervals_hold_in_over_92_percent_of_simulated_comparisons() -> None:
    held = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        # A machine that gets up to twice as slow meanwhile slows both.
        shared = np.exp(np.linspace(0, 0.7, 10) + 0.1 * random.standard_normal(10))
        found = ratio_of_rounds(
            rounds(random, 10 * RATIO, shared=shared), rounds(random, 10, shared=shared), np.median, seed
        )
        assert found.low is not None and found.high is not None
        held += found.low <= RATIO <= found.high
        # The drift of both cancels: the interval is as narrow as the 2 % of the rounds allow.
        assert found.high / found.low < 1.15
    assert held >= 0.92 * 200


def test_few_rounds_have_no_interval() -> None:
    own, base = rounds(np.random.default_rng(0), 13.1, 4), rounds(np.random.default_rng(1), 10, 4)
    for compute in (ratio_of_rounds, ratio_of_pooled_rounds):
        assert compute(own, base, np.median).low is None


def test_equal_rounds_have_an_interval_of_no_width() -> None:
    assert ratio_of_rounds([np.array([2.0])] * 6, [np.array([1.0])] * 6, np.median) == Ratio(value=2, low=2, high=2)


def test_a_tail_is_that_of_all_rounds_together() -> None:
    own, base = rounds(np.random.default_rng(0), 13.1), rounds(np.random.default_rng(1), 10)
    found = ratio_of_pooled_rounds(own, base, lambda samples: float(np.percentile(samples, 95)))
    expected = np.percentile(np.concatenate(own), 95) / np.percentile(np.concatenate(base), 95)
    assert found.value == pytest.approx(expected)
    assert found.low is not None and found.high is not None and found.low < found.value < found.high


def test_intervals_of_separate_measurements_are_wider_where_runs_depend_on_each_other() -> None:
    random = np.random.default_rng(0)
    steps = random.standard_normal((2, 2000))
    dependent = np.empty_like(steps)
    dependent[:, 0] = steps[:, 0]
    for i in range(1, steps.shape[1]):
        dependent[:, i] = 0.9 * dependent[:, i - 1] + np.sqrt(1 - 0.81) * steps[:, i]
    widths = []
    for values in (steps, dependent):
        found = ratio_of_samples(*np.exp(0.05 * values), median)
        assert found.low is not None and found.high is not None
        widths.append(found.high - found.low)
    # The mean of an AR(1) process of 0.9 has 19 times the variance.
    assert widths[1] > 2.5 * widths[0]


def test_a_handful_of_runs_have_no_interval() -> None:
    assert ratio_of_samples(np.array([2.0, 2.0]), np.array([1.0, 1.0]), np.median) == Ratio(value=2)


def median(samples: np.ndarray) -> np.ndarray:
    return np.median(samples, axis=-1)


def compared(**ratios: Ratio) -> Compared:
    return Compared(
        name="B", path="b", kind="engine", precision="int8", backend="cpu", backend_version="1", size_bytes=1,
        peak_bytes=1, engine_bytes=1, latency_ms=statistics_ms([1.0]), percentiles=percentile_bounds([1.0]),
        rounds_ms=((1.0,),), ratios=ratios,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "result"),
    [(1.06, 1.2, "failed"), (0.9, 1.04, "passed"), (1.0, 1.1, "undecided"), (0.9, 1.05, "passed")],
)
def test_a_limit_is_decided_by_the_whole_interval_alone(low: float, high: float, result: str) -> None:
    limit = limit_from_text("p50>1.05x")
    assert result_of_limit(limit, compared(p50=Ratio(value=1.07, low=low, high=high))).result == result


def test_a_limit_is_undecided_without_an_interval_and_without_enough_runs() -> None:
    few = result_of_limit(limit_from_text("p50>1.05x"), compared(p50=Ratio(value=3)))
    assert (few.result, few.reason) == ("undecided", "there is no confidence interval: 5 rounds or more are needed")
    none = result_of_limit(limit_from_text("p99>1.05x"), compared(p50=Ratio(value=3, low=3, high=3)))
    assert none.result == "undecided" and "p99 needs 459 runs of each" in none.reason


def test_limits_are_parsed() -> None:
    assert limit_from_text("p50>1.05x") == Limit("p50>1.05x", "p50", 1.05)
    assert limit_from_text(" size > 2 x ")[1:] == ("size", 2.0)


@pytest.mark.parametrize("text", ["p50", "p50>1.05", "p50<1x", "p98>1x", "p50>0x", "p50>-1x", ""])
def test_error_on_what_is_no_limit(text: str) -> None:
    with pytest.raises(ValueError, match="expected METRIC>FACTORx"):
        limit_from_text(text)
