"""Finds in the samples where the warm-up ends and the steady state begins."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

__all__ = ["SteadyState", "steady_state"]

BATCH = 5
MIN_BATCHES = 8
LEVEL_LIMIT = 0.02
TIMER_FLOOR_MS = 0.005


class SteadyState(msgspec.Struct, frozen=True, kw_only=True):
    """Where the steady state begins; no run before it is left out of any figure.

    Attributes:
        first_run: index of the first run of the steady state: 0 if it holds from the first run; None if the runs do
            not settle, or are too few to tell.
        before_ms: median of the runs before it; None if there are none.
        after_ms: median of the runs from it on; None without a steady state.
    """

    first_run: int | None
    before_ms: float | None = None
    after_ms: float | None = None


def steady_state(samples_ms: Sequence[float]) -> SteadyState:
    """Finds the steady state by the rule MSER-5, on the medians of five runs each.

    The rule drops the first d batches for which the squared standard error of the remaining mean,
    ``sum((x - mean)**2) / (m - d)**2``, is least; d in the second half means that the runs do not settle (White, Cobb
    and Spratt 2000, "A comparison of five steady-state truncation heuristics for simulation"). Here d is the first
    whose error is as small as the least one, up to the accuracy of that error; the least one itself moves by chance.
    Medians instead of means of the batches keep single slow runs from being taken for a warm-up. The runs before are a
    warm-up only if their median differs from that of the others by more than 2 %, and by more than four of its
    standard errors.

    Args:
        samples_ms: one duration per run in ms, in the order of the runs.
    """
    values = np.asarray(samples_ms, dtype=np.float64)
    batches = len(values) // BATCH
    if batches < MIN_BATCHES:
        return SteadyState(first_run=None)
    medians = np.median(values[: batches * BATCH].reshape(batches, BATCH), axis=1)
    left = np.arange(batches, 0, -1)
    # Sums from batch d to the end, for every d at once.
    sums, squares = (np.cumsum(each[::-1])[::-1] for each in (medians, medians**2))
    errors = np.maximum(squares - sums**2 / left, 0) / left**2
    # The last few batches are too few for a standard error (White 1997 excludes them too).
    errors = errors[: batches - BATCH]
    # Past the warm-up the errors are equal but for chance; a variance of m values has a relative error of sqrt(2 / m).
    dropped = int(np.argmax(errors <= errors.min() * (1 + (2 / batches) ** 0.5)))
    first = dropped * BATCH
    if first == 0 or not _differ(values[:first], values[first:]):
        return SteadyState(first_run=0, after_ms=float(np.median(values)))
    before = float(np.median(values[:first]))
    if dropped > batches // 2:
        return SteadyState(first_run=None, before_ms=before)
    return SteadyState(first_run=first, before_ms=before, after_ms=float(np.median(values[first:])))


def _differ(first: np.ndarray, rest: np.ndarray) -> bool:
    level = float(np.median(rest))
    sigma = 1.4826 * float(np.median(np.abs(rest - level)))  # of a normal distribution, from its median deviation
    # The standard error of a median is 1.2533 times that of a mean, for a normal distribution.
    standard_error = 1.2533 * sigma * float(np.sqrt(1 / len(first) + 1 / len(rest)))
    change = abs(float(np.median(first)) - level)
    return change > max(LEVEL_LIMIT * level, 4 * standard_error, TIMER_FLOOR_MS)
