"""Reference non-maximum suppression, one box at a time: simple but slow, to test `suppress` against."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["diou", "iou", "nms", "probiou", "rotated_iou"]

Point = tuple[float, float]


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Computes intersection over union of two boxes ``(x1, y1, x2, y2)``; a box without area overlaps nothing."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area_a = max(0.0, a[2] - a[0]) * max(0.0, a[3] - a[1])
    area_b = max(0.0, b[2] - b[0]) * max(0.0, b[3] - b[1])
    intersection = width * height
    return intersection / (area_a + area_b - intersection) if intersection > 0 else 0.0


def diou(a: Sequence[float], b: Sequence[float], beta: float) -> float:
    """Computes intersection over union less a term for the distance of two boxes ``(x1, y1, x2, y2)``.

    The term is ``(d / c) ** beta``, with the squared distance ``d`` of the centers and the squared diagonal ``c`` of
    the smallest box around both (Zheng et al. 2020, arXiv:1911.08287, section 3.3, where beta is 1; Darknet's
    ``beta_nms``). Two points at one place have no distance.
    """
    width, height = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    across, down = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    diagonal, distance = width**2 + height**2, across**2 + down**2
    return iou(a, b) - ((distance / diagonal) ** beta if diagonal > 0 else 0.0)


def rotated_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Computes intersection over union of two rotated boxes; a box without area overlaps nothing.

    The polygon of one box is clipped by each side of the other one (Sutherland and Hodgman 1974, "Reentrant Polygon
    Clipping"), and its area is computed by the shoelace formula.

    Args:
        a: ``(center x, center y, width, height, angle)``, the angle in radians from the x axis to the y axis.
        b: the other box.
    """
    polygon, other = _polygon(a), _polygon(b)
    area_a, area_b = _area(polygon), _area(other)
    if area_a <= 0 or area_b <= 0:
        return 0.0
    for start, end in zip(other, other[1:] + other[:1], strict=True):
        polygon = _clipped(polygon, start, end)
    intersection = _area(polygon)
    return intersection / (area_a + area_b - intersection)


def _polygon(box: Sequence[float]) -> list[Point]:
    x, y, width, height, angle = box
    width, height = max(width, 0.0), max(height, 0.0)
    cos, sin = math.cos(angle), math.sin(angle)
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    offsets = [(i * width / 2, j * height / 2) for i, j in signs]
    return [(x + cos * u - sin * v, y + sin * u + cos * v) for u, v in offsets]


def _area(polygon: list[Point]) -> float:
    if not polygon:
        return 0.0
    # Relative to a corner, so that boxes far from the origin are as exact.
    x, y = polygon[0]
    corners = [(u - x, v - y) for u, v in polygon]
    return sum(u * q - p * v for (u, v), (p, q) in zip(corners, corners[1:] + corners[:1], strict=True)) / 2


def _clipped(polygon: list[Point], start: Point, end: Point) -> list[Point]:
    """Clips a polygon by the half-plane to the left of a line."""

    def side(point: Point) -> float:
        return (end[0] - start[0]) * (point[1] - start[1]) - (end[1] - start[1]) * (point[0] - start[0])

    clipped: list[Point] = []
    for i, point in enumerate(polygon):
        before = polygon[i - 1]
        if (side(point) >= 0) != (side(before) >= 0):
            share = side(before) / (side(before) - side(point))
            clipped.append((before[0] + share * (point[0] - before[0]), before[1] + share * (point[1] - before[1])))
        if side(point) >= 0:
            clipped.append(point)
    return clipped


def probiou(a: Sequence[float], b: Sequence[float]) -> float:
    """Computes the probabilistic intersection over union of two rotated boxes; a box without area overlaps nothing.

    Each box is a Gaussian with its center and the covariance of a uniform density in the box. With the Bhattacharyya
    distance ``D`` of the two, the overlap is ``1 - sqrt(1 - exp(-D))``, one minus the Hellinger distance
    (Murrugarra-Llerena et al. 2021, arXiv:2106.06072, section 3). Ultralytics suppresses rotated boxes by it, with a
    constant of 1e-7 in places where it could divide by zero.

    Args:
        a: ``(center x, center y, width, height, angle)``, the angle in radians from the x axis to the y axis.
        b: the other box.
    """
    if min(a[2], a[3], b[2], b[3]) <= 0:
        return 0.0
    gaussians = [_covariance(box) for box in (a, b)]
    mean = (gaussians[0] + gaussians[1]) / 2
    offset = np.array([a[0] - b[0], a[1] - b[1]])
    area, areas = np.linalg.det(mean), np.prod([np.linalg.det(each) for each in gaussians])
    if not (area > 0 and areas > 0):  # too thin for float64
        return 0.0
    distance = float(offset @ np.linalg.solve(mean, offset)) / 8
    distance += math.log(area / math.sqrt(areas)) / 2
    return 1 - math.sqrt(1 - math.exp(-max(distance, 0.0)))


def _covariance(box: Sequence[float]) -> np.ndarray:
    cos, sin = math.cos(box[4]), math.sin(box[4])
    rotation = np.array([[cos, -sin], [sin, cos]])
    result: np.ndarray = rotation @ np.diag([box[2] ** 2 / 12, box[3] ** 2 / 12]) @ rotation.T
    return result


def nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    overlap: Callable[[Sequence[float], Sequence[float]], float] = iou,
    fast: bool = False,
) -> np.ndarray:
    """Selects boxes by class-aware greedy suppression.

    Candidates are processed by descending score, ties by lower index. One is kept if its score is greater than
    ``score_threshold`` and it overlaps no kept box of its class by more than ``iou_threshold``, until
    ``max_detections`` are kept. A candidate with a NaN or an infinite corner is ignored. Scores are compared in
    float32, so the threshold is rounded to float32; overlaps are computed in float64.

    Args:
        boxes: corners ``(x1, y1, x2, y2)``; float32, shape ``(M, 4)``; for rotated boxes ``(M, 5)``.
        scores: float32, shape ``(M,)``.
        classes: integers, shape ``(M,)``.
        score_threshold: only boxes with a greater score are kept.
        iou_threshold: maximum overlap of a kept box with a better box of its class.
        max_detections: maximum number of kept boxes.
        overlap: `iou`, `diou` with its ``beta``, or `rotated_iou` or `probiou` for rotated boxes.
        fast: a box is dropped for any better candidate of its class that it overlaps, kept or not (Fast NMS, Bolya et
            al. 2019, YOLACT, arXiv:1904.02689).

    Returns:
        Indices of the kept candidates, best first; int64, shape ``(K,)``.
    """
    threshold = np.float32(score_threshold)
    candidates = [
        i for i in range(len(scores)) if scores[i] > threshold and all(math.isfinite(corner) for corner in boxes[i])
    ]
    candidates.sort(key=lambda i: (-float(scores[i]), i))
    kept: list[int] = []
    for place, i in enumerate(candidates):
        if len(kept) == max_detections:
            break
        box, better = boxes[i].tolist(), candidates[:place] if fast else kept
        if all(classes[i] != classes[j] or overlap(box, boxes[j].tolist()) <= iou_threshold for j in better):
            kept.append(i)
    return np.asarray(kept, np.int64)
