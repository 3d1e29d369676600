"""Reference non-maximum suppression, one box at a time: simple but slow, to test `suppress` against."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["iou", "nms"]


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Computes intersection over union of two boxes ``(x1, y1, x2, y2)``; a box without area overlaps nothing."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area_a = max(0.0, a[2] - a[0]) * max(0.0, a[3] - a[1])
    area_b = max(0.0, b[2] - b[0]) * max(0.0, b[3] - b[1])
    intersection = width * height
    return intersection / (area_a + area_b - intersection) if intersection > 0 else 0.0


def nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
) -> np.ndarray:
    """Selects boxes by class-aware greedy suppression.

    Candidates are processed by descending score, ties by lower index. One is kept if its score is greater than
    ``score_threshold`` and it overlaps no kept box of its class by more than ``iou_threshold``, until
    ``max_detections`` are kept. A candidate with a NaN or an infinite corner is ignored. Scores are compared in
    float32, so the threshold is rounded to float32; overlaps are computed in float64.

    Args:
        boxes: corners ``(x1, y1, x2, y2)``; float32, shape ``(M, 4)``.
        scores: float32, shape ``(M,)``.
        classes: integers, shape ``(M,)``.
        score_threshold: only boxes with a greater score are kept.
        iou_threshold: maximum overlap of a kept box with a better box of its class.
        max_detections: maximum number of kept boxes.

    Returns:
        Indices of the kept candidates, best first; int64, shape ``(K,)``.
    """
    threshold = np.float32(score_threshold)
    candidates = [
        i for i in range(len(scores)) if scores[i] > threshold and all(math.isfinite(corner) for corner in boxes[i])
    ]
    candidates.sort(key=lambda i: (-float(scores[i]), i))
    kept: list[int] = []
    for i in candidates:
        if len(kept) == max_detections:
            break
        box = boxes[i].tolist()
        if all(classes[i] != classes[j] or iou(box, boxes[j].tolist()) <= iou_threshold for j in kept):
            kept.append(i)
    return np.asarray(kept, np.int64)
