from __future__ import annotations

import numpy as np
import pytest

from edgekit.measure.steady import steady_state


def level(runs: int, seed: int = 0) -> np.ndarray:
    return 10 * (1 + 0.01 * np.random.default_rng(seed).gamma(2, 1, runs))


@pytest.mark.parametrize("warm_up", [20, 50, 80])
def test_the_end_of_slow_first_runs_is_found(warm_up: int) -> None:
    samples = level(300)
    samples[:warm_up] *= 1.3
    found = steady_state(samples.tolist())
    assert found.first_run == warm_up
    assert found.before_ms == pytest.approx(1.3 * np.median(level(300)), rel=0.02)
    assert found.after_ms == pytest.approx(np.median(samples[warm_up:]))


def test_an_exponential_warm_up_ends_where_little_of_it_is_left() -> None:
    samples = level(400) * (1 + 0.5 * np.exp(-np.arange(400) / 20))
    found = steady_state(samples.tolist())
    # After three time constants, 5 % of the excess is left.
    assert found.first_run is not None and 40 <= found.first_run <= 120


@pytest.mark.parametrize("seed", range(30))
def test_steady_runs_are_steady_from_the_first(seed: int) -> None:
    assert steady_state(level(200, seed).tolist()).first_run == 0


def test_single_slow_runs_are_no_warm_up() -> None:
    samples = level(200)
    samples[[3, 60, 61]] *= 20
    assert steady_state(samples.tolist()).first_run == 0


def test_runs_that_change_late_do_not_settle() -> None:
    samples = level(200)
    samples[:150] *= 1.3
    found = steady_state(samples.tolist())
    assert found.first_run is None
    assert found.before_ms is not None


def test_few_runs_say_nothing() -> None:
    assert steady_state([1.0] * 20).first_run is None


def test_equal_runs_are_steady() -> None:
    assert steady_state([5.0] * 100).first_run == 0
