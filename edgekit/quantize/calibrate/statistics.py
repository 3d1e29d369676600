"""Statistics of a tensor for calibration, in constant memory."""

from __future__ import annotations

import math
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
"""Smallest and largest number in each of the 65,536 bins of a histogram; NaN for infinities and NaNs."""
_NOT_FINITE = np.flatnonzero(~np.isfinite(BIN_EDGES[0]))


COUNTED = 1 << 17
"""About how many elements of a tensor a histogram counts per input: rare values are found over all inputs together,
and the first activations of a detector have twenty times as many elements."""


class TensorStatistics:
    """Min, max and a histogram of one tensor over all calibration inputs.

    The histogram's bins are the upper 16 bits of a float32, that is the value truncated to bfloat16: a bin is
    at most 1/128 of its value wide. In tensors with more than `COUNTED` elements per input it counts every third,
    fifth and so on; min and max are those of all elements. The bins cover every float, so nothing is widened or
    merged as ranges grow, and the counts do not depend on the order or the batch size of the inputs.

    Infinities are only counted in `infinities`: padding with minus infinity is not part of a range.

    Args:
        with_histogram: count the histogram; min and max alone are ten times faster.

    Attributes:
        lo: smallest finite value; 0 before the first update.
        hi: largest finite value; 0 before the first update.
        channel_lo: smallest finite value of each channel (axis 1), float32 ``(C,)``, 0 if there is none yet; None if
            the tensor has no such axis.
        channel_hi: largest finite value of each channel, likewise.
        histogram: counts, int64 ``(65536,)``, or None.
        infinities: number of infinite elements.
        typical: geometric mean of the largest magnitude in each array; 0 if all are zeros.
    """

    def __init__(self, *, with_histogram: bool) -> None:
        self.lo = 0.0
        self.hi = 0.0
        self.histogram = np.zeros(1 << 16, np.int64) if with_histogram else None
        self.infinities = 0
        self._seen = False
        self._log_largest, self._arrays = 0.0, 0
        # Min and max of each channel; +inf and -inf before the first finite value.
        self._channels: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def seen(self) -> bool:
        """Whether a finite number was among the values."""
        return self._seen

    @property
    def typical(self) -> float:
        return math.exp(self._log_largest / self._arrays) if self._arrays else 0.0

    @property
    def channel_lo(self) -> np.ndarray | None:
        return None if self._channels is None else np.where(np.isfinite(self._channels[0]), self._channels[0], 0)

    @property
    def channel_hi(self) -> np.ndarray | None:
        return None if self._channels is None else np.where(np.isfinite(self._channels[1]), self._channels[1], 0)

    def update(self, array: np.ndarray, *, missing: bool = False) -> bool:
        """Adds an array to the statistics; returns false, and adds nothing, if the array has a NaN.

        With ``missing``, a NaN is a value that the model marks as missing, and is left out.
        """
        array = np.ascontiguousarray(array, np.float32)
        if array.size == 0:
            return True
        lo, hi = _channel_extremes(array)
        if not missing and np.isnan(lo).any():
            return False
        if not (np.isfinite(lo).all() and np.isfinite(hi).all()):
            finite = np.isfinite(array)
            self.infinities += int(np.count_nonzero(np.isinf(array)))
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
        """Returns the statistics of the input of the LeakyRelu, with this slope above 0, that computed this tensor."""
        before = TensorStatistics(with_histogram=self.histogram is not None)
        before.infinities, before._seen = self.infinities, self._seen

        def inverse(x: np.ndarray) -> np.ndarray:
            return np.where(x < 0, x / slope, x)

        before.lo, before.hi = float(inverse(np.array(self.lo))), float(inverse(np.array(self.hi)))
        if self._channels is not None:
            before._channels = inverse(self._channels[0]), inverse(self._channels[1])
        if self.histogram is not None and before.histogram is not None:
            held = np.flatnonzero(self.histogram)
            middles = inverse((BIN_EDGES[0][held] + BIN_EDGES[1][held]) / 2).astype(np.float32)
            bins = middles.view(np.uint32) >> 16
            before.histogram[:] = np.bincount(bins, weights=self.histogram[held], minlength=1 << 16).astype(np.int64)
        return before

    def _merge(self, lo: np.ndarray, hi: np.ndarray) -> None:
        seen = lo <= hi  # false for channels of infinities only
        if not seen.any():
            return
        low, high = float(lo[seen].min()), float(hi[seen].max())
        if largest := max(-low, high):
            self._log_largest, self._arrays = self._log_largest + math.log(largest), self._arrays + 1
        self.lo = min(self.lo, low) if self._seen else low
        self.hi = max(self.hi, high) if self._seen else high
        if not self._seen:
            self._channels = lo, hi
        elif self._channels is not None and self._channels[0].shape == lo.shape:
            self._channels = np.minimum(self._channels[0], lo), np.maximum(self._channels[1], hi)
        else:  # axis 1 is not a channel axis: its size changes from input to input
            self._channels = None
        self._seen = True


def _evenly_chosen(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the bins of every n-th element of each input (axis 0); the choice does not depend on the batch size.

    Little-endian: the upper half of a float32 is the second of its two 16-bit words.
    """
    batch = array.reshape(len(array), -1) if array.ndim > 1 else array.reshape(1, -1)
    # An odd step visits all columns of an even width.
    step = max(1, batch.shape[1] // COUNTED) | 1
    for numbers in batch:
        yield numbers.view(np.uint16)[1 :: 2 * step]


def _channel_extremes(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the min and max of each channel (axis 1), or of the whole array if there is no such axis."""
    if array.ndim < 2:
        return array.min(keepdims=True).reshape(1), array.max(keepdims=True).reshape(1)
    rows = array.reshape(*array.shape[:2], -1)
    return rows.min((0, 2)), rows.max((0, 2))
