"""Non-maximum suppression of rotated boxes in numpy."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Literal

import numpy as np

from edgekit.kernels.suppression.nearby import Circles, Nearby
from edgekit.kernels.suppression.rotated import circles, highest_iou, near, near_gaussians, probiou, rotated_iou

__all__ = ["kept_rotated"]

# Number of candidates that are compared at once: large enough to hide Python's overhead, small enough that few
# comparisons are wasted when `max_detections` is reached.
_BLOCK = 128
# Number of better boxes that a block is compared with at once, first and at most.
_FIRST, _MOST = 8, 256
# Candidates are compared with so many of the best boxes, and of those that were added last; all others are sorted by
# their place, see `Nearby`, so that only those nearby are compared.
_DENSE = 1024


def kept_rotated(
    boxes: np.ndarray,
    classes: np.ndarray,
    overlap: Literal["rotated", "probiou"],
    iou_threshold: float,
    max_detections: int,
    fast: bool = False,
) -> np.ndarray:
    """Returns the positions of the boxes that suppression keeps; int64, shape ``(K,)``.

    Args:
        boxes: ``(center x, center y, width, height, angle)``, best first, finite; shape ``(M, 5)``.
        classes: integers, shape ``(M,)``.
        overlap: how much two boxes overlap.
        iou_threshold: maximum overlap of a kept box with a better box of its class.
        max_detections: maximum number of kept boxes.
        fast: a box is dropped for any better one that it overlaps, not only for a kept one (arXiv:1904.02689).
    """
    wide = boxes.astype(np.float64)
    places = _Sorted(lambda: circles(wide, classes, overlap, iou_threshold))
    kept = np.empty(0, np.int64)
    for start in range(0, len(wide), _BLOCK):
        whole = np.arange(start, min(start + _BLOCK, len(wide)))
        better = np.arange(start) if fast else kept
        done = places.add(better)
        block = _not_suppressed(overlap, wide, classes, whole, better[:_DENSE], iou_threshold)
        if done > _DENSE:
            rows, columns = places.pairs(block)
            close = _near(overlap, wide[block[rows]], wide[columns], iou_threshold)
            rows, columns = rows[close], columns[close]
            block = np.delete(block, rows[_overlapping(overlap, wide, block[rows], columns, iou_threshold)])
        block = _not_suppressed(overlap, wide, classes, block, better[done:], iou_threshold)
        suppress = _suppress(overlap, wide, classes, block, whole if fast else block, iou_threshold)
        if fast:
            alive = ~(suppress & (whole < block[:, None])).any(axis=1)
        else:
            alive = _greedy(suppress)
        kept = np.concatenate([kept, block[alive]])
        if len(kept) >= max_detections:
            break
    return kept[:max_detections]


class _Sorted:
    """The boxes behind the best ones, sorted by place; sorted again whenever there are `_DENSE` more."""

    def __init__(self, found: Callable[[], Circles]) -> None:
        self._found = found
        self._done, self._members = _DENSE, np.empty(0, np.int64)
        self._nearby: Nearby | None = None

    def add(self, better: np.ndarray) -> int:
        """Returns how many of the boxes, which begin with those of the last call, are among the best or are sorted."""
        if len(better) - self._done >= _DENSE:
            self._done, self._members = len(better), better[_DENSE:]
            self._nearby = Nearby(self._circles.at(self._members))
        return self._done

    @cached_property
    def _circles(self) -> Circles:
        """The circles of all boxes; most suppression keeps too few to need them."""
        return self._found()

    def pairs(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns positions in the block and the boxes that may overlap them."""
        assert self._nearby is not None
        rows, columns = self._nearby.pairs(self._circles.at(block))
        return rows, self._members[columns]


def _not_suppressed(
    overlap: Literal["rotated", "probiou"],
    boxes: np.ndarray,
    kinds: np.ndarray,
    block: np.ndarray,
    better: np.ndarray,
    iou_threshold: float,
) -> np.ndarray:
    """Returns the candidates of the block that no better box suppresses.

    The best boxes suppress most of the others, so the first comparisons are few, and most candidates have no more.
    """
    done, size = 0, _FIRST
    while done < len(better) and len(block):
        columns = better[done : done + size]
        block = block[~_suppress(overlap, boxes, kinds, block, columns, iou_threshold).any(axis=1)]
        done += size
        size = min(2 * size, _MOST)
    return block


def _greedy(suppress: np.ndarray) -> np.ndarray:
    """Returns a bool mask of the candidates to keep, from the matrix of those that suppress each other, best first."""
    alive = np.ones(len(suppress), bool)
    for i in np.flatnonzero(np.triu(suppress, 1).any(axis=1)):
        if alive[i]:
            alive[i + 1 :] &= ~suppress[i, i + 1 :]
    return alive


def _suppress(
    overlap: Literal["rotated", "probiou"],
    boxes: np.ndarray,
    kinds: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    iou_threshold: float,
) -> np.ndarray:
    """Returns a bool matrix: whether a row's box overlaps a column's box of its class by more than the threshold."""
    same: np.ndarray = kinds[rows, None] == kinds[None, columns]
    i, j = np.nonzero(same & _near(overlap, boxes[rows, None], boxes[None, columns], iou_threshold))
    result = np.zeros(same.shape, bool)
    result[i, j] = _overlapping(overlap, boxes, rows[i], columns[j], iou_threshold)
    return result


def _near(overlap: Literal["rotated", "probiou"], a: np.ndarray, b: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Returns whether boxes can overlap by more than the threshold."""
    return near(a, b) if overlap == "rotated" else near_gaussians(a, b, iou_threshold)


def _overlapping(
    overlap: Literal["rotated", "probiou"],
    boxes: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    iou_threshold: float,
) -> np.ndarray:
    """Returns whether boxes ``a[i]`` and ``b[i]``, of one class, overlap by more than the threshold; bool."""
    # The better box comes first, in both calls, as in the kernel: the two orders may round differently.
    first, second = np.minimum(a, b), np.maximum(a, b)
    if overlap == "probiou":
        result: np.ndarray = probiou(boxes[first], boxes[second]) > iou_threshold
        return result
    result = highest_iou(boxes[first], boxes[second]) > iou_threshold * (1 - 1e-9)
    first, second = first[result], second[result]
    result[result] = rotated_iou(boxes[first], boxes[second]) > iou_threshold
    return result
