"""What calibration remembers of a tensor, in memory that does not grow with what it is shown."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["BIN_EDGES", "TensorStatistics"]


def _bin_edges() -> tuple[np.ndarray, np.ndarray]:
    patterns = np.arange(1 << 16, dtype=np.uint32) << 16
    first, last = patterns.view(np.float32), (patterns | 0xFFFF).view(np.float32)
    finite = np.isfinite(first) & np.isfinite(last)
    first, last = np.where(finite, first, 0).astype(np.float64), np.where(finite, last, 0).astype(np.float64)
    low, high = np.minimum(first, last), np.maximum(first, last)
    return np.where(finite, low, np.nan), np.where(finite, high, np.nan)


BIN_EDGES = _bin_edges()
"""Least and greatest number in each of the 65,536 bins of a histogram; NaN for infinities and NaNs."""
_NOT_FINITE = np.flatnonzero(~np.isfinite(BIN_EDGES[0]))


COUNTED = 1 << 17
"""Of each input's numbers in a tensor, about the most that a histogram counts: what it says of rare ones comes from all
inputs together, and the first activations of a detector have twenty times as many."""


class TensorStatistics:
    """Extremes, means and a histogram of one tensor over all inputs that were shown.

    The histogram counts the upper half of a float32's bits, that is the number cut down to bfloat16: a bin is
    at most 1/128 of its value wide. Of tensors with more than `COUNTED` numbers for each input it counts every third,
    fifth and so on; extremes are those of all. Such bins cover every float there is, so nothing has to be widened or
    merged as ranges grow, and the counts cannot depend on the order or the batch in which numbers come.

    Infinities are left out of everything but `infinities`: padding with minus infinity says nothing of a range.

    Args:
        with_histogram: count the histogram; the extremes alone are ten times faster.

    Attributes:
        lo: least finite number; 0 before any was seen.
        hi: greatest finite number.
        channel_lo: least finite number of each channel (axis 1), float32 ``(C,)``, 0 before any was seen; None where
            there is no such axis.
        channel_hi: likewise the greatest.
        histogram: counts, int64 ``(65536,)``, or None.
        infinities: how many numbers were infinite.
    """

    def __init__(self, *, with_histogram: bool) -> None:
        self.lo = 0.0
        self.hi = 0.0
        self.histogram = np.zeros(1 << 16, np.int64) if with_histogram else None
        self.infinities = 0
        self._seen = False
        # Of each channel, +inf and -inf where nothing finite was seen yet.
        self._channels: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def channel_lo(self) -> np.ndarray | None:
        return None if self._channels is None else np.where(np.isfinite(self._channels[0]), self._channels[0], 0)

    @property
    def channel_hi(self) -> np.ndarray | None:
        return None if self._channels is None else np.where(np.isfinite(self._channels[1]), self._channels[1], 0)

    def update(self, array: np.ndarray) -> bool:
        """Takes one more array into account; false, and nothing is taken, when it holds a NaN."""
        array = np.ascontiguousarray(array, np.float32)
        if array.size == 0:
            return True
        lo, hi = _channel_extremes(array)
        if np.isnan(lo).any():
            return False
        if not (np.isfinite(lo).all() and np.isfinite(hi).all()):
            finite = np.isfinite(array)
            self.infinities += int(array.size - np.count_nonzero(finite))
            lo, hi = (
                _channel_extremes(np.where(finite, array, np.inf))[0],
                _channel_extremes(np.where(finite, array, -np.inf))[1],
            )
        if self.histogram is not None:
            for counted in _evenly_chosen(array):
                self.histogram += np.bincount(counted, minlength=1 << 16)
            self.histogram[_NOT_FINITE] = 0
        self._merge(lo, hi)
        return True

    def before_leaky_relu(self, slope: float) -> TensorStatistics:
        """Of the tensor that a LeakyRelu of this slope, greater than 0, has turned into this one."""
        before = TensorStatistics(with_histogram=self.histogram is not None)
        before.infinities, before._seen = self.infinities, self._seen

        def undone(x: np.ndarray) -> np.ndarray:
            return np.where(x < 0, x / slope, x)

        before.lo, before.hi = float(undone(np.array(self.lo))), float(undone(np.array(self.hi)))
        if self._channels is not None:
            before._channels = undone(self._channels[0]), undone(self._channels[1])
        if self.histogram is not None and before.histogram is not None:
            held = np.flatnonzero(self.histogram)
            middles = undone((BIN_EDGES[0][held] + BIN_EDGES[1][held]) / 2).astype(np.float32)
            bins = middles.view(np.uint32) >> 16
            before.histogram[:] = np.bincount(bins, weights=self.histogram[held], minlength=1 << 16).astype(np.int64)
        return before

    def _merge(self, lo: np.ndarray, hi: np.ndarray) -> None:
        seen = lo <= hi  # a channel of nothing but infinities has no extremes
        if not seen.any():
            return
        low, high = float(lo[seen].min()), float(hi[seen].max())
        self.lo = min(self.lo, low) if self._seen else low
        self.hi = max(self.hi, high) if self._seen else high
        if not self._seen:
            self._channels = lo, hi
        elif self._channels is not None and self._channels[0].shape == lo.shape:
            self._channels = np.minimum(self._channels[0], lo), np.maximum(self._channels[1], hi)
        else:  # the axis is not one of channels: its length changes from input to input
            self._channels = None
        self._seen = True


def _evenly_chosen(array: np.ndarray) -> Iterator[np.ndarray]:
    """Bins of numbers of each input, axis 0: the same ones of each, whatever the batch.

    Little-endian: the upper half of a float32 is the second of its two 16-bit words.
    """
    batch = array.reshape(len(array), -1) if array.ndim > 1 else array.reshape(1, -1)
    # An odd step, which no even width is a multiple of, comes past all columns.
    step = max(1, batch.shape[1] // COUNTED) | 1
    for numbers in batch:
        yield numbers.view(np.uint16)[1 :: 2 * step]


def _channel_extremes(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest of each channel, axis 1; of all where there is no such axis."""
    if array.ndim < 2:
        return array.min(keepdims=True).reshape(1), array.max(keepdims=True).reshape(1)
    rows = array.reshape(*array.shape[:2], -1)
    return rows.min((0, 2)), rows.max((0, 2))
