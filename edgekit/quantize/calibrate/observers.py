"""Four calibration methods, which compute a tensor's quantization range from its statistics.

All use `TensorStatistics`, so one pass over the calibration set serves each of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgekit.errors import UsageError, nearest
from edgekit.quantize.calibrate.statistics import BIN_EDGES, TensorStatistics

__all__ = ["METHODS", "needs_histogram", "range_from_statistics"]

PERCENTILE = 99.99
LEVELS = 256
KL_BINS = 2048
KL_LEVELS = 128
KL_STRIDE = 5
KL_DIGITS = 9
"""Sums of the same numbers in another order differ beyond these digits."""
FINITE_BINS = 0x7F80
"""Histogram bins of finite numbers of one sign; the infinities follow."""

Range = tuple[float, float]


def needs_histogram(method: str) -> bool:
    """Whether the method needs more than the min and max.

    Raises:
        UsageError: there is no such method.
    """
    if method not in METHODS:
        raise UsageError(f"unknown calibration method '{method}'", hint=nearest(method, METHODS))
    return method != "minmax"


def range_from_statistics(statistics: TensorStatistics, method: str) -> Range:
    """Computes the min and max that are represented; values outside saturate. Zero is always inside.

    Args:
        statistics: has a histogram, unless the method is ``minmax``.
        method: a key of `METHODS`.
    """
    lo, hi = METHODS[method](statistics)
    return min(lo, 0.0), max(hi, 0.0)


def _minmax(statistics: TensorStatistics) -> Range:
    """The full range. Nothing saturates, and rare large values determine the step size for all others."""
    return statistics.lo, statistics.hi


def _percentile(statistics: TensorStatistics) -> Range:
    """The range without the outermost 0.01 % on each side."""
    centers, counts = _finite_bins(statistics)
    if not len(counts):
        return 0.0, 0.0
    cumulated = np.cumsum(counts) / counts.sum()
    tail = 1.0 - PERCENTILE / 100.0
    first = int(np.searchsorted(cumulated, tail, side="right"))
    last = int(np.searchsorted(cumulated, 1.0 - tail, side="left"))
    return max(float(centers[first]), statistics.lo), min(float(centers[min(last, len(centers) - 1)]), statistics.hi)


def _mse(statistics: TensorStatistics) -> Range:
    """The range with the smallest mean squared error between values and their quantized values.

    Inside the range the squared error is that of rounding, ``step² / 12``, except for values that are rounded to
    zero, where it is their square (0 for a ReLU's zeros); outside, it is the squared distance to the range.
    Min and max are searched in turn among 100 fractions of the extremes, which converges in a few rounds.
    """
    centers, counts = _finite_bins(statistics)
    if not len(counts):
        return 0.0, 0.0
    lo, hi = min(statistics.lo, 0.0), max(statistics.hi, 0.0)
    parts = np.linspace(0.01, 1.0, 100)
    for _ in range(4):
        before = lo, hi
        highs = parts * max(statistics.hi, 0.0)
        hi = float(highs[np.argmin(_squared_errors(centers, counts, np.full_like(highs, lo), highs))])
        lows = parts * min(statistics.lo, 0.0)
        lo = float(lows[np.argmin(_squared_errors(centers, counts, lows, np.full_like(lows, hi)))])
        if (lo, hi) == before:
            break
    return lo, hi


def _squared_errors(centers: np.ndarray, counts: np.ndarray, los: np.ndarray, his: np.ndarray) -> np.ndarray:
    """Computes the sum of squared errors for each candidate range, from cumulative moments of the histogram."""
    moments = [np.concatenate([[0.0], np.cumsum(counts * centers**k)]) for k in range(3)]
    below = np.searchsorted(centers, los, side="left")
    above = np.searchsorted(centers, his, side="right")

    def beyond(first: np.ndarray, last: np.ndarray, end: np.ndarray) -> np.ndarray:
        n, s, q = (m[last] - m[first] for m in moments)
        return np.asarray(q - 2 * end * s + end**2 * n)

    steps = (his - los) / (LEVELS - 1)
    first = np.maximum(np.searchsorted(centers, -steps / 2), below)
    last = np.clip(np.searchsorted(centers, steps / 2), first, above)
    rounded = moments[0][above] - moments[0][below] - (moments[0][last] - moments[0][first])
    nothing, everything = np.zeros_like(below), np.full_like(above, len(centers))
    zeros = np.zeros_like(steps)
    return np.asarray(
        rounded * steps**2 / 12
        + beyond(first, last, zeros)
        + beyond(nothing, below, los)
        + beyond(above, everything, his)
    )


def _entropy(statistics: TensorStatistics) -> Range:
    """The threshold with the smallest Kullback-Leibler divergence between magnitudes and their quantized values.

    As in S. Migacz, "8-bit Inference with TensorRT", GTC 2017: 2048 bins of magnitudes, 128 levels; the outliers of a
    candidate are added to its last bin; a level's count is spread evenly over its non-empty bins.
    """
    magnitudes = _magnitudes(statistics)
    largest = max(abs(statistics.lo), abs(statistics.hi))
    if largest == 0.0:
        return 0.0, 0.0
    # Zeros are exact at any scale and would outweigh all other values.
    magnitudes[0] = magnitudes[1]
    # A stride that divides 128 would only try lengths that the levels divide evenly, where the divergence jumps.
    coarse = _with_min_kl(magnitudes, np.append(np.arange(KL_LEVELS, KL_BINS, KL_STRIDE), KL_BINS))
    near = np.arange(max(KL_LEVELS, coarse - KL_STRIDE), min(KL_BINS, coarse + KL_STRIDE) + 1)
    threshold = (_with_min_kl(magnitudes, near) + 0.5) * largest / KL_BINS
    return max(statistics.lo, -threshold), min(statistics.hi, threshold)


def _magnitudes(statistics: TensorStatistics) -> np.ndarray:
    """Computes a histogram of magnitudes, with `KL_BINS` bins of equal width up to the largest.

    The bins of the statistics are up to 16 times as wide there; the count of each is spread evenly over its width.
    """
    histogram = _histogram(statistics)
    ends = np.linspace(0.0, max(abs(statistics.lo), abs(statistics.hi)), KL_BINS + 1)
    magnitudes = np.zeros(KL_BINS)
    for sign, extreme in ((0, statistics.hi), (1, -statistics.lo)):
        bins = slice(sign << 15, (sign << 15) + FINITE_BINS)
        edges = np.minimum(np.abs(BIN_EDGES[1 - sign][bins]), max(extreme, 0.0))
        magnitudes += np.diff(np.interp(ends, np.append(0.0, edges), np.append(0, np.cumsum(histogram[bins]))))
    return magnitudes


def _with_min_kl(magnitudes: np.ndarray, lengths: np.ndarray) -> int:
    return int(lengths[int(np.argmin(_kl_divergences(magnitudes, lengths)))])


def _kl_divergences(magnitudes: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Computes, for each length n, the divergence of the first n bins (the last one with the outliers) from 128 levels.

    With counts m, their sum S, the sum of the first n bins C, and s_l in f_l non-empty bins of level l, a bin's
    probability is ``p = m / S``, quantized ``q = s_l / f_l / C``. So the sum of ``p log(p / q)`` over all bins but the
    last is the sum of ``m log m``, cumulative over bins, minus that of ``s_l log(s_l / f_l)`` over levels, and
    constants.

    Args:
        magnitudes: counts, float64 ``(KL_BINS,)``, not all 0.
        lengths: candidates, int ``(N,)``.

    Returns:
        Divergences, float64 ``(N,)``; infinite if the first n bins are empty.
    """
    tiny = np.finfo(np.float64).tiny
    count, entropy, held = (
        np.append(0.0, np.cumsum(values))
        for values in (magnitudes, magnitudes * np.log(np.maximum(magnitudes, tiny)), magnitudes > 0)
    )
    # Bin j of n belongs to level j * 128 // n.
    starts = -(-np.arange(KL_LEVELS + 1) * lengths[:, None] // KL_LEVELS)
    filled = np.diff(held[starts], axis=1)
    sums = np.where(filled > 0, np.diff(count[starts], axis=1), 0.0)
    logs = np.log(np.maximum(sums, tiny) / np.maximum(filled, 1.0))
    total, within, last = count[-1], np.maximum(count[lengths], tiny), magnitudes[lengths - 1]
    outer = last + total - count[lengths]
    # A last bin with outliers only has a quantized probability of 0: use the smallest positive number.
    outer_q = np.where(last > 0, logs[:, -1] - np.log(within), np.log(tiny))
    before = count[lengths - 1]
    inner = (
        entropy[lengths - 1] - before * (np.log(total) - np.log(within)) - ((sums * logs).sum(1) - last * logs[:, -1])
    )
    edge = np.where(outer > 0, outer * (np.log(np.maximum(outer, tiny) / total) - outer_q), 0.0)
    divergences = np.where(count[lengths] > 0, (inner + edge) / total, np.inf)
    return np.asarray(np.round(divergences, KL_DIGITS))


def _finite_bins(statistics: TensorStatistics) -> tuple[np.ndarray, np.ndarray]:
    """Returns the centers of the non-empty bins, ascending, and their counts."""
    histogram = _histogram(statistics)
    low, high = BIN_EDGES
    held = np.flatnonzero(histogram)
    middles = (low[held] + high[held]) / 2
    order = np.argsort(middles, kind="stable")
    return middles[order], histogram[held][order]


def _histogram(statistics: TensorStatistics) -> np.ndarray:
    if statistics.histogram is None:
        raise ValueError("this method needs statistics with a histogram")
    return statistics.histogram


METHODS: dict[str, Callable[[TensorStatistics], Range]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _mse,
}
