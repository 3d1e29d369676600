"""Non-maximum suppression of rotated boxes in numpy."""

from __future__ import annotations

from typing import Literal

import numpy as np

from edgekit.kernels.suppression.rotated import near, near_gaussians, probiou, rotated_iou

__all__ = ["kept_rotated"]

# Number of candidates that are compared at once: large enough to hide Python's overhead, small enough that few
# comparisons are wasted when `max_detections` is reached.
_BLOCK = 128
# Number of better boxes that a block is compared with at once, first and at most.
_FIRST, _MOST = 8, 256


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
    kept = np.empty(0, np.int64)
    for start in range(0, len(wide), _BLOCK):
        whole = np.arange(start, min(start + _BLOCK, len(wide)))
        block = _not_suppressed(overlap, wide, classes, whole, np.arange(start) if fast else kept, iou_threshold)
        suppress = _suppress(overlap, wide, classes, block, whole if fast else block, iou_threshold)
        if fast:
            alive = ~(suppress & (whole < block[:, None])).any(axis=1)
        else:
            alive = _greedy(suppress)
        kept = np.concatenate([kept, block[alive]])
        if len(kept) >= max_detections:
            break
    return kept[:max_detections]


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
    result: np.ndarray = kinds[rows, None] == kinds[None, columns]
    if overlap == "rotated":  # only boxes that are near can overlap
        result &= near(boxes[rows, None], boxes[None, columns])
    else:
        result &= near_gaussians(boxes[rows, None], boxes[None, columns], iou_threshold)
    i, j = np.nonzero(result)
    measure = rotated_iou if overlap == "rotated" else probiou
    # The better box comes first, in both calls, as in the kernel: the two orders may round differently.
    first, second = np.minimum(rows[i], columns[j]), np.maximum(rows[i], columns[j])
    result[i, j] = measure(boxes[first], boxes[second]) > iou_threshold
    return result
