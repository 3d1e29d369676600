from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from edgekit.measure.confidence import (
    overruns_allowed,
    percentile_bound,
    percentile_bounds,
    runs_needed,
    variance_inflation,
)

NOISE = 0.05
SIMULATED = 2000


# MLPerf Inference's table of the least number of runs for no overrun and for one (loadgen, early stopping).
@pytest.mark.parametrize(
    ("runs", "percentile", "allowed"),
    [(458, 99, -1), (459, 99, 0), (661, 99, 0), (662, 99, 1), (43, 90, -1), (44, 90, 0), (63, 90, 0), (64, 90, 1)],
)
def test_overruns_are_those_of_mlperfs_table(runs: int, percentile: float, allowed: int) -> None:
    assert overruns_allowed(runs, percentile) == allowed


@pytest.mark.parametrize("percentile", [50, 90, 95, 99, 99.9])
@pytest.mark.parametrize("confidence", [0.9, 0.99])
@pytest.mark.parametrize("runs", [1, 10, 100, 1000, 20_000])
def test_overruns_are_the_quantile_of_a_binomial_distribution(percentile: float, confidence: float, runs: int) -> None:
    k = overruns_allowed(runs, percentile, confidence)
    exceeds = stats.binom(runs, 1 - percentile / 100)
    assert exceeds.cdf(k) <= 1 - confidence < exceeds.cdf(k + 1) * (1 + 1e-9)


@pytest.mark.parametrize(("percentile", "runs"), [(90, 44), (95, 90), (99, 459), (99.9, 4603)])
def test_the_least_number_of_runs_is_the_first_that_allows_no_overrun(percentile: float, runs: int) -> None:
    assert runs_needed(percentile) == runs
    assert overruns_allowed(runs, percentile) == 0
    assert overruns_allowed(runs - 1, percentile) == -1


@pytest.mark.parametrize(("percentile", "confidence"), [(0, 0.99), (100, 0.99), (99, 0), (99, 1)])
def test_error_on_numbers_out_of_range(percentile: float, confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and"):
        runs_needed(percentile, confidence)


def test_a_bound_is_the_run_with_the_allowed_number_above_it() -> None:
    samples = np.random.default_rng(1).permutation(1000) / 10
    bound = percentile_bound(samples.tolist(), 99)
    assert bound.effective_runs == 1000
    assert bound.upper_ms is not None
    allowed = overruns_allowed(1000, 99)
    assert allowed == 2
    assert (samples > bound.upper_ms).sum() == allowed


def test_too_few_runs_have_no_bound_and_say_how_many_are_missing() -> None:
    samples = np.random.default_rng(0).permutation(400).astype(float).tolist()
    p90, p95, p99 = percentile_bounds(samples)
    assert p90.upper_ms is not None and p95.upper_ms is not None
    assert (p99.upper_ms, p99.missing_runs) == (None, 59)


def test_error_on_no_runs() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        percentile_bound([], 99)


def test_equal_runs_are_independent() -> None:
    assert percentile_bound([5.0] * 459, 99).upper_ms == 5.0


def independent(random: np.random.Generator, runs: int) -> np.ndarray:
    return np.exp(NOISE * random.standard_normal((SIMULATED, runs)))


def autocorrelated(phi: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    """An AR(1) process of the logarithm, with the same distribution as `independent`."""

    def draw(random: np.random.Generator, runs: int) -> np.ndarray:
        steps = random.standard_normal((runs, SIMULATED))
        state = steps[0]
        found = [state]
        for step in steps[1:]:
            state = phi * state + math.sqrt(1 - phi**2) * step
            found.append(state)
        return np.exp(NOISE * np.array(found)).T

    return draw


def drifting(by: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    return lambda random, runs: independent(random, runs) * np.exp(by * np.arange(runs) / runs)


def with_outliers(random: np.random.Generator, runs: int) -> np.ndarray:
    slow = random.random((SIMULATED, runs)) < 0.02
    return independent(random, runs) * np.where(slow, 1 + random.exponential(2, slow.shape), 1)


def drifting_autocorrelated_with_outliers(random: np.random.Generator, runs: int) -> np.ndarray:
    slow = random.random((SIMULATED, runs)) < 0.02
    base = autocorrelated(0.3)(random, runs) * np.exp(0.01 * np.arange(runs) / runs)
    return base * np.where(slow, 1 + random.exponential(2, slow.shape), 1)


PROCESSES = {
    "independent": independent,
    "AR(1), 0.1": autocorrelated(0.1),
    "AR(1), 0.5": autocorrelated(0.5),
    "AR(1), 0.9": autocorrelated(0.9),
    "drift of 2 %": drifting(0.02),
    "drift of 10 %": drifting(0.1),
    "outliers": with_outliers,
    "all of them": drifting_autocorrelated_with_outliers,
}


@pytest.mark.parametrize("name", PROCESSES)
def test_99_percent_claims_hold_in_over_98_5_percent_of_2000_simulated_measurements(name: str) -> None:
    draw = PROCESSES[name]
    random = np.random.default_rng(7)
    # The percentile over the time of a measurement, from a million runs.
    truth = np.quantile(draw(random, 500), (0.9, 0.99))
    samples = draw(random, 600)
    inflations = variance_inflation(samples)
    for percentile, wanted in zip((90, 99), truth, strict=True):
        bounds = [
            percentile_bound(row, percentile, inflation=inflation).upper_ms
            for row, inflation in zip(samples, inflations, strict=True)
        ]
        claimed = np.array([bound for bound in bounds if bound is not None])
        assert len(claimed) == 0 or (claimed >= wanted).mean() >= 0.985
        if name == "independent":
            assert len(claimed) > 0.8 * SIMULATED


@pytest.mark.parametrize("phi", [0.5, 0.8, 0.9])
def test_inflation_of_an_autocorrelated_process_is_near_its_true_value(phi: float) -> None:
    samples = autocorrelated(phi)(np.random.default_rng(3), 2000)[:200]
    expected = (1 + phi) / (1 - phi)
    assert 0.8 * expected < np.median(variance_inflation(samples)) < 1.6 * expected


def test_slow_runs_in_groups_of_five_count_as_fewer_runs() -> None:
    random = np.random.default_rng(0)
    samples = np.exp(NOISE * random.standard_normal(5000))
    for start in random.integers(0, 4995, 20):
        samples[start : start + 5] *= 3
    bound = percentile_bound(samples.tolist(), 99)
    assert bound.effective_runs < 5000 / 2
    # A hundred runs, 2 %, are slow: their level is what 99 % of the runs do not exceed.
    assert bound.upper_ms is None or bound.upper_ms > 2.5


def test_inflation_is_the_same_for_one_measurement_and_for_a_row() -> None:
    samples = autocorrelated(0.5)(np.random.default_rng(0), 300)[:3]
    assert variance_inflation(samples).tolist() == pytest.approx([variance_inflation(row) for row in samples])
