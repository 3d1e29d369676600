from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.measure.latency import disturbances, statistics_ms

SAMPLES = st.lists(st.floats(1e-3, 1e4), min_size=2, max_size=200)
MANY_SAMPLES = st.integers(2, 600).map(lambda runs: np.random.default_rng(runs).gamma(2, 3, runs).tolist())


def quiet(runs: int = 200, seed: int = 0, base_ms: float = 25.0) -> np.ndarray:
    """Samples of a quiet machine: a sharp lower edge and a short tail, 1 to 3 % wide."""
    return base_ms * (1 + 0.008 * np.random.default_rng(seed).gamma(2.0, 1.0, runs))


def kinds(samples: np.ndarray) -> set[str]:
    return {disturbance.kind for disturbance in disturbances(samples.tolist())}


@given(SAMPLES | MANY_SAMPLES)
def test_mean_deviation_and_quantiles_are_those_of_the_standard_library(samples: list[float]) -> None:
    ours = statistics_ms(samples)
    # Inclusive quantiles: the i-th of n cut points lies at rank (len - 1) * i / n, as numpy's do.
    cuts = statistics.quantiles(samples, n=100, method="inclusive")
    assert ours.mean == pytest.approx(statistics.fmean(samples))
    assert ours.std == pytest.approx(statistics.stdev(samples), abs=1e-9)
    assert ours.p50 == pytest.approx(statistics.median(samples))
    for percentile, least, ours_is in ((90, 44, ours.p90), (95, 90, ours.p95), (99, 459, ours.p99)):
        assert ours_is == (pytest.approx(cuts[percentile - 1]) if len(samples) >= least else None)
    assert (ours.min, ours.max) == (min(samples), max(samples))


def test_one_run_has_no_deviation() -> None:
    only = statistics_ms([3.0])
    assert (only.mean, only.std, only.p50, only.p90) == (3.0, 0.0, 3.0, None)


def test_error_on_no_runs() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        statistics_ms([])


@pytest.mark.parametrize("seed", range(50))
def test_a_quiet_machine_triggers_no_rule(seed: int) -> None:
    assert kinds(quiet(seed=seed)) == set()


@pytest.mark.parametrize("runs", [20, 30, 100, 1000])
def test_a_quiet_machine_triggers_no_rule_however_many_runs(runs: int) -> None:
    assert kinds(quiet(runs)) == set()


def test_single_slow_runs_trigger_no_rule() -> None:
    samples = quiet()
    samples[[17, 151]] *= 4
    assert kinds(samples) == set()


def test_a_slow_run_in_fifty_is_a_tail() -> None:
    samples = quiet()
    samples[::50] *= 4
    assert kinds(samples) == {"tail"}


def test_a_tail_of_200_times_the_median_is_never_quiet() -> None:
    samples = quiet(1000, base_ms=0.05)
    samples[::80] = 10.4
    assert "tail" in kinds(samples)


def test_slow_first_runs_are_a_warm_up_and_no_drift() -> None:
    samples = quiet()
    samples[:40] *= 1.1
    (found,) = disturbances(samples.tolist())
    assert found.kind == "warm_up"
    assert "The first 40 runs were 10 % slower" in found.text


def test_ten_percent_disturbed_runs_are_a_spread() -> None:
    samples = quiet()
    samples[::10] *= np.linspace(1.3, 2.5, 20)
    assert "spread" in kinds(samples)


def test_runs_far_under_the_median_are_a_spread_too() -> None:
    assert "spread" in kinds(np.random.default_rng(0).uniform(74, 99, 100))


def test_a_falling_clock_is_a_drift_to_slower() -> None:
    samples = quiet() * np.linspace(1.0, 1.12, 200)
    (found,) = disturbances(samples.tolist())
    assert found.kind == "drift"
    assert "slower" in found.text


def test_a_warming_machine_is_a_drift_to_faster() -> None:
    samples = quiet() * np.linspace(1.12, 1.0, 200)
    (found,) = disturbances(samples.tolist())
    assert found.kind == "drift"
    assert "faster" in found.text


def test_two_clock_speeds_are_two_levels() -> None:
    samples = quiet()
    samples[np.arange(200) // 10 % 2 == 0] *= 1.25
    found = {disturbance.kind: disturbance.text for disturbance in disturbances(samples.tolist())}
    assert "around 25.4 ms and 31.7 ms" in found["two_levels"]


@pytest.mark.parametrize("seed", range(20))
def test_wide_noise_of_one_kind_is_not_two_levels(seed: int) -> None:
    random = np.random.default_rng(seed)
    assert "two_levels" not in kinds(random.normal(25, 2.5, 300))
    assert "two_levels" not in kinds(random.uniform(20, 30, 300))
    assert "two_levels" not in kinds(20 + random.exponential(4, 300))


def test_differences_below_timer_resolution_trigger_no_rule() -> None:
    samples = quiet(base_ms=0.02)
    samples[:60] *= 1.5
    assert kinds(samples) == set()


def test_too_few_runs_are_reported() -> None:
    (found,) = disturbances([1.0, 50.0, 2.0])
    assert found.kind == "few"
    assert "3 runs" in found.text


def test_equal_runs_trigger_no_rule() -> None:
    assert disturbances([5.0] * 100) == ()
