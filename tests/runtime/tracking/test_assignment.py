from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgekit.runtime.tracking.assignment import assign, assign_below

COSTS = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(-20, 20).map(float)
)


@given(COSTS)
@settings(max_examples=100, deadline=None)
def test_the_total_is_that_of_scipy(costs: np.ndarray) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    pairs = assign(costs)
    assert len(pairs) == min(costs.shape)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    rows, columns = optimize.linear_sum_assignment(costs)
    assert sum(costs[pair] for pair in pairs) == pytest.approx(costs[rows, columns].sum())


@given(COSTS, st.integers(-10, 10).map(float))
@settings(max_examples=60, deadline=None)
def test_below_a_limit_no_other_choice_of_pairs_gains_more(costs: np.ndarray, limit: float) -> None:
    costs = costs[:3, :3]
    pairs = assign_below(costs, limit)
    assert all(costs[pair] < limit for pair in pairs)
    every = list(itertools.product(range(costs.shape[0]), range(costs.shape[1])))
    gains = [
        sum(costs[pair] - limit for pair in chosen)
        for count in range(min(costs.shape) + 1)
        for chosen in itertools.combinations(every, count)
        if len({row for row, _ in chosen}) == len({column for _, column in chosen}) == count
    ]
    assert sum(costs[pair] - limit for pair in pairs) == pytest.approx(min(gains))


def test_pairs_that_are_not_allowed_are_left_out() -> None:
    costs = np.array([[np.inf, 0.2], [np.inf, 0.1]])
    assert assign_below(costs, 0.8) == [(1, 1)]
    assert assign_below(np.zeros((0, 3)), 0.8) == []


def test_a_hundred_rows_take_no_time() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    costs = np.random.default_rng(0).random((100, 120))
    rows, columns = optimize.linear_sum_assignment(costs)
    assert assign(costs) == list(zip(rows.tolist(), columns.tolist(), strict=True))
