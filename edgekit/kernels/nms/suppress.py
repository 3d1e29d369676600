"""Non-maximum suppression in numpy: the result of `edgekit.kernels.nms.reference.nms`, fast."""

from __future__ import annotations

import numpy as np

from edgekit.errors import UsageError

__all__ = ["nms"]

# Candidates that are compared with each other at once: large enough to leave Python's overhead behind, small enough
# that few comparisons are made in vain once `max_detections` is reached.
_BLOCK = 128


def nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
) -> np.ndarray:
    """Class-aware greedy suppression; what is kept, and in which order, is said in `edgekit.kernels.nms.reference.nms`.

    Args:
        boxes: corners ``(x1, y1, x2, y2)``; float32, shape ``(M, 4)``.
        scores: float32, shape ``(M,)``.
        classes: integers, shape ``(M,)``.
        score_threshold: a kept score is greater; 0 to 1.
        iou_threshold: a kept box overlaps a better one of its class by this or less; 0 to 1.
        max_detections: at most so many are kept.

    Returns:
        Indices of the kept candidates, best first; int64, shape ``(K,)``.

    Raises:
        UsageError: a threshold is not between 0 and 1, or ``max_detections`` is negative.
    """
    _check_thresholds(score_threshold, iou_threshold, max_detections)
    candidates = np.flatnonzero((scores > np.float32(score_threshold)) & np.isfinite(boxes).all(axis=1))
    order = candidates[np.argsort(-scores[candidates], kind="stable")]
    corners, kinds = np.ascontiguousarray(boxes[order].T, np.float64), np.asarray(classes)[order]

    kept = np.empty(0, np.int64)  # positions in `order`
    for start in range(0, len(order), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(order)))
        block = block[~_suppress(corners, kinds, block, kept, iou_threshold).any(axis=1)]
        block = block[_greedy(_suppress(corners, kinds, block, block, iou_threshold))]
        kept = np.concatenate([kept, block])
        if len(kept) >= max_detections:
            break
    return order[kept[:max_detections]].astype(np.int64, copy=False)


def _check_thresholds(score_threshold: float, iou_threshold: float, max_detections: int) -> None:
    """Raises `UsageError` for a threshold that is not between 0 and 1, or a negative number of detections."""
    for name, value in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
        if not 0 <= value <= 1:
            raise UsageError(f"{name}: expected 0 to 1, got {value}")
    if max_detections < 0:
        raise UsageError(f"max_detections: expected 0 or more, got {max_detections}")


def _greedy(suppress: np.ndarray) -> np.ndarray:
    """Which candidates are kept, given which suppress each other, best first; bool."""
    alive = np.ones(len(suppress), bool)
    for i in np.flatnonzero(np.triu(suppress, 1).any(axis=1)):
        if alive[i]:
            alive[i + 1 :] &= ~suppress[i, i + 1 :]
    return alive


def _suppress(
    corners: np.ndarray, kinds: np.ndarray, rows: np.ndarray, columns: np.ndarray, iou_threshold: float
) -> np.ndarray:
    """Which of ``rows`` overlaps which of ``columns`` by more than the threshold, in the same class; bool matrix."""
    a, b = corners[:, rows, None], corners[:, None, columns]
    width = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0])
    height = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1])
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    union = _area(a) + _area(b) - intersection
    iou = np.divide(intersection, union, out=np.zeros_like(union), where=intersection > 0)
    result: np.ndarray = (iou > iou_threshold) & (kinds[rows, None] == kinds[None, columns])
    return result


def _area(corners: np.ndarray) -> np.ndarray:
    area: np.ndarray = np.maximum(corners[2] - corners[0], 0) * np.maximum(corners[3] - corners[1], 0)
    return area
