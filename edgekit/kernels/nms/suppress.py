"""Fast non-maximum suppression in numpy, with the same results as `edgekit.kernels.nms.reference.nms`."""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np

from edgekit.errors import UsageError
from edgekit.kernels.nms.rotated import near, probiou, rotated_iou

__all__ = ["Overlap", "check_thresholds", "nms"]

Overlap = Literal["corners", "rotated", "probiou"]
"""Intersection over union of boxes with corners; of rotated boxes; or of rotated boxes as Gaussians."""

# Number of candidates that are compared at once: large enough to hide Python's overhead, small enough that few
# comparisons are wasted when `max_detections` is reached.
_BLOCK = 128


def nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    overlap: Overlap = "corners",
) -> np.ndarray:
    """Selects boxes by class-aware greedy suppression; see `edgekit.kernels.nms.reference.nms` for the exact rules.

    Args:
        boxes: corners ``(x1, y1, x2, y2)``; float32, shape ``(M, 4)``. Rotated boxes are ``(center x, center y, width,
            height, angle)``, shape ``(M, 5)``, the angle in radians.
        scores: float32, shape ``(M,)``.
        classes: integers, shape ``(M,)``.
        score_threshold: only boxes with a greater score are kept; 0 to 1.
        iou_threshold: maximum overlap of a kept box with a better box of its class; 0 to 1.
        max_detections: maximum number of kept boxes.
        overlap: how much two boxes overlap.

    Returns:
        Indices of the kept candidates, best first; int64, shape ``(K,)``.

    Raises:
        UsageError: a threshold is not between 0 and 1, or ``max_detections`` is negative.
    """
    check_thresholds(score_threshold, iou_threshold, max_detections)
    candidates = np.flatnonzero((scores > np.float32(score_threshold)) & np.isfinite(boxes).all(axis=1))
    order = candidates[np.argsort(-scores[candidates], kind="stable")]
    corners, kinds = np.ascontiguousarray(boxes[order].T, np.float64), np.asarray(classes)[order]

    suppress = _suppress if overlap == "corners" else functools.partial(_suppress_rotated, overlap)
    kept = np.empty(0, np.int64)  # positions in `order`
    for start in range(0, len(order), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(order)))
        block = block[~suppress(corners, kinds, block, kept, iou_threshold).any(axis=1)]
        block = block[_greedy(suppress(corners, kinds, block, block, iou_threshold))]
        kept = np.concatenate([kept, block])
        if len(kept) >= max_detections:
            break
    return order[kept[:max_detections]].astype(np.int64, copy=False)


def check_thresholds(score_threshold: float, iou_threshold: float, max_detections: int) -> None:
    """Raises `UsageError` for a threshold that is not between 0 and 1, or a negative number of detections."""
    for name, value in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
        if not 0 <= value <= 1:
            raise UsageError(f"{name}: expected 0 to 1, got {value}")
    if max_detections < 0:
        raise UsageError(f"max_detections: expected 0 or more, got {max_detections}")


def _greedy(suppress: np.ndarray) -> np.ndarray:
    """Returns a bool mask of the candidates to keep, from the matrix of those that suppress each other, best first."""
    alive = np.ones(len(suppress), bool)
    for i in np.flatnonzero(np.triu(suppress, 1).any(axis=1)):
        if alive[i]:
            alive[i + 1 :] &= ~suppress[i, i + 1 :]
    return alive


def _suppress(
    corners: np.ndarray, kinds: np.ndarray, rows: np.ndarray, columns: np.ndarray, iou_threshold: float
) -> np.ndarray:
    """Returns a bool matrix: whether a row's box overlaps a column's box of its class by more than the threshold."""
    a, b = corners[:, rows, None], corners[:, None, columns]
    width = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0])
    height = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1])
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    union = _area(a) + _area(b) - intersection
    iou = np.divide(intersection, union, out=np.zeros_like(union), where=intersection > 0)
    result: np.ndarray = (iou > iou_threshold) & (kinds[rows, None] == kinds[None, columns])
    return result


def _suppress_rotated(
    overlap: Overlap,
    corners: np.ndarray,
    kinds: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    iou_threshold: float,
) -> np.ndarray:
    """Does the same as `_suppress` for rotated boxes; only pairs of one class that are near are compared."""
    boxes = corners.T
    result: np.ndarray = kinds[rows, None] == kinds[None, columns]
    if overlap == "rotated":  # Gaussians have no end
        result &= near(boxes[rows, None], boxes[None, columns])
    i, j = np.nonzero(result)
    measure = rotated_iou if overlap == "rotated" else probiou
    # The better box comes first, in both calls, as in the kernel: the two orders may round differently.
    first, second = np.minimum(rows[i], columns[j]), np.maximum(rows[i], columns[j])
    result[i, j] = measure(boxes[first], boxes[second]) > iou_threshold
    return result


def _area(corners: np.ndarray) -> np.ndarray:
    area: np.ndarray = np.maximum(corners[2] - corners[0], 0) * np.maximum(corners[3] - corners[1], 0)
    return area
