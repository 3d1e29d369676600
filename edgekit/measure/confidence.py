"""Percentiles with a stated confidence: upper bounds that hold without an assumption about the distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import msgspec
import numpy as np

__all__ = [
    "CONFIDENCE",
    "PERCENTILES",
    "PercentileBound",
    "overruns_allowed",
    "percentile_bound",
    "percentile_bounds",
    "runs_needed",
    "variance_inflation",
]

CONFIDENCE = 0.99
PERCENTILES = (90.0, 95.0, 99.0)

DEPENDENCE_LEVEL = 0.01
"""Significance level of each test for dependence: lower misses more of it, higher asks more runs of a quiet machine."""
INFLATION_CONFIDENCE = 0.90
TAILS = (0.90, 0.95, 0.99)
FEW = 3


class PercentileBound(msgspec.Struct, frozen=True, kw_only=True):
    """An upper bound of a percentile, or how many runs it still needs.

    Attributes:
        percentile: such as 99, for the duration that 99 runs in 100 do not exceed.
        confidence: the probability, in repeated measurements, that the bound is right.
        upper_ms: the bound in milliseconds; None if the runs do not support one.
        runs: number of measured runs.
        effective_runs: number of independent runs with the same information; equals ``runs`` if they are independent.
        missing_runs: runs like these that are still needed; 0 if there is a bound.
    """

    percentile: float
    confidence: float
    upper_ms: float | None
    runs: int
    effective_runs: int
    missing_runs: int


def runs_needed(percentile: float, confidence: float = CONFIDENCE) -> int:
    """Returns the least number of independent runs that support a bound of this percentile.

    The largest of n runs is a bound with probability ``1 - p**n``: 459 runs for p99 with a confidence of 99 %, 44 for
    p90.

    Raises:
        ValueError: a number is not in range.
    """
    _check(percentile, confidence)
    return math.ceil(math.log(1 - confidence) / math.log(percentile / 100))


def overruns_allowed(runs: int, percentile: float, confidence: float = CONFIDENCE) -> int:
    """Returns how many of ``runs`` independent runs may exceed a bound of the percentile; -1 if there are too few runs.

    It is the largest k with P(Binomial(runs, 1 - p) <= k) <= 1 - confidence. MLPerf Inference uses the same rule for
    its early stopping (loadgen, ``early_stopping.cc``). It also holds if the distribution changes during the
    measurement, for the percentile of all runs together (Hoeffding 1956, "On the distribution of the number of
    successes in independent trials").

    Raises:
        ValueError: a number is not in range.
    """
    _check(percentile, confidence)
    exceeds = 1 - percentile / 100
    odds = exceeds / (1 - exceeds)
    # In logarithms: with many runs, the first terms are too small for a float.
    term = runs * math.log1p(-exceeds)
    total, k = math.exp(term), -1
    while total <= 1 - confidence and k < runs:
        k += 1
        term += math.log((runs - k) / (k + 1) * odds) if k < runs else -math.inf
        total += math.exp(term)
    return k


def percentile_bound(
    samples_ms: Sequence[float], percentile: float, confidence: float = CONFIDENCE, *, inflation: float | None = None
) -> PercentileBound:
    """Returns an upper bound of a percentile.

    If the runs depend on each other, the binomial rule is used with the number of effective runs,
    ``n / variance_inflation``, and the number of runs above the bound is scaled accordingly. The bound is about the
    time of the measurement: slow periods that are rarer than one per measurement cannot be seen in it.

    Args:
        samples_ms: one duration per run in ms, in the order of the runs.
        percentile: above 0, below 100.
        confidence: above 0, below 1.
        inflation: the variance inflation of these samples, if it is known already.

    Raises:
        ValueError: there are no runs, or a number is not in range.
    """
    values = np.asarray(samples_ms, dtype=np.float64)
    if not len(values):
        raise ValueError("percentile: expected at least one run, got none")
    inflation = float(variance_inflation(values)) if inflation is None else inflation
    effective = int(len(values) / inflation)
    allowed = overruns_allowed(effective, percentile, confidence)
    needed = math.ceil(runs_needed(percentile, confidence) * inflation)
    upper = None
    if allowed >= 0:
        rank = len(values) - 1 - int(allowed * inflation)
        upper = float(np.partition(values, rank)[rank])
    return PercentileBound(
        percentile=percentile,
        confidence=confidence,
        upper_ms=upper,
        runs=len(values),
        effective_runs=effective,
        missing_runs=0 if upper is not None else max(1, needed - len(values)),
    )


def percentile_bounds(
    samples_ms: Sequence[float], percentiles: Sequence[float] = PERCENTILES, confidence: float = CONFIDENCE
) -> tuple[PercentileBound, ...]:
    """Returns the bounds of several percentiles; see `percentile_bound`."""
    inflation = float(variance_inflation(np.asarray(samples_ms, dtype=np.float64)))
    return tuple(percentile_bound(samples_ms, each, confidence, inflation=inflation) for each in percentiles)


def variance_inflation(samples: np.ndarray) -> np.ndarray:
    """Returns how much dependence between runs inflates the variance of a mean: 1 if the runs are independent.

    By batch means (Conway 1963; Alexopoulos and Seila 1998, "Output data analysis"): the variance of the means of
    blocks of ``n**(1/3)`` and of ``n**(1/2)`` runs, relative to that of independent runs. It is computed for the ranks,
    and for the indicators of the slowest 10, 5 and 1 %, because slow runs may come in groups while the others are
    independent; the largest is returned. Where a test at the 1 % level (of the lag-1 autocorrelation, and of the block
    means) does not show dependence, the result is 1; where it does, the result is the upper end of a one-sided 90 %
    interval.

    Args:
        samples: durations in the order of the runs; float64, shape ``(n,)``, or ``(k, n)`` for k measurements.

    Returns:
        The inflation, 1 or more; float64, shape ``()`` or ``(k,)``.
    """
    rows = np.atleast_2d(samples)
    n = rows.shape[1]
    found = np.ones(len(rows))
    if n >= 8:
        ranks = _ranks(rows)
        tails = [ranks >= level * n for level in TAILS if (1 - level) * n >= FEW]
        for series in (ranks, *tails):
            found = np.maximum(found, _inflation_of(series.astype(np.float64)))
    return found if samples.ndim == 2 else found[0]


def _ranks(rows: np.ndarray) -> np.ndarray:
    """Returns ranks within each row; equal values are ordered at random, since their order in time is a trend."""
    shuffled = np.random.default_rng(0).permutation(rows.shape[1])
    order = shuffled[np.argsort(rows[:, shuffled], axis=1, kind="stable")]
    ranks = np.empty(rows.shape, dtype=np.int64)
    np.put_along_axis(ranks, order, np.arange(rows.shape[1])[None], axis=1)
    return ranks


def _inflation_of(series: np.ndarray) -> np.ndarray:
    n = series.shape[1]
    centred = series - series.mean(axis=1, keepdims=True)
    variance = (centred**2).mean(axis=1)
    lag_1 = (centred[:, 1:] * centred[:, :-1]).mean(axis=1) / variance * math.sqrt(n)
    adjacent = lag_1 > NormalDist().inv_cdf(1 - DEPENDENCE_LEVEL)
    found = np.ones(len(series))
    for length in {max(2, int(n ** (1 / 3))), max(2, math.isqrt(n))}:
        blocks = n // length
        means = centred[:, : blocks * length].reshape(len(series), blocks, length).mean(axis=2)
        statistic = (blocks - 1) * length * means.var(axis=1, ddof=1) / variance
        dependent = adjacent | (statistic > _chi_square(1 - DEPENDENCE_LEVEL, blocks - 1))
        upper = statistic / _chi_square(1 - INFLATION_CONFIDENCE, blocks - 1)
        found = np.where(dependent, np.maximum(found, upper), found)
    return found


def _chi_square(probability: float, degrees: int) -> float:
    """Returns a quantile of the chi-square distribution, by Wilson and Hilferty (1931)."""
    ninth = 2 / (9 * degrees)
    return degrees * max(0.0, 1 - ninth + NormalDist().inv_cdf(probability) * math.sqrt(ninth)) ** 3


def _check(percentile: float, confidence: float) -> None:
    if not 0 < percentile < 100:
        raise ValueError(f"percentile: expected a number between 0 and 100, got {percentile:g}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence:g}")
