"""Overlap of pairs of rotated boxes in numpy; see `edgekit.kernels.suppression.reference` for the definitions."""

from __future__ import annotations

from typing import Literal

import numpy as np

from edgekit.kernels.suppression.nearby import Circles

__all__ = ["circles", "highest_iou", "near", "near_gaussians", "probiou", "rotated_iou"]


def rotated_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Computes the exact intersection over union of pairs of rotated boxes.

    A box is clipped by the four sides of the other one, in whose frame they are parallel to the axes.

    Args:
        a: center x, center y, width, height, angle in radians; float64, shape ``(P, 5)``.
        b: the other box of each pair.

    Returns:
        float64, shape ``(P,)``; a box without area overlaps nothing.
    """
    cos, sin = np.cos(b[:, 4]), np.sin(b[:, 4])
    dx, dy = a[:, 0] - b[:, 0], a[:, 1] - b[:, 1]
    center = np.stack([dx * cos + dy * sin, dy * cos - dx * sin], axis=1)
    cos, sin = np.cos(a[:, 4] - b[:, 4]), np.sin(a[:, 4] - b[:, 4])
    half_a, half_b = np.maximum(a[:, 2:4], 0) / 2, np.maximum(b[:, 2:4], 0) / 2
    along = np.stack([half_a[:, 0] * cos, half_a[:, 0] * sin], axis=1)
    across = np.stack([-half_a[:, 1] * sin, half_a[:, 1] * cos], axis=1)
    polygon = np.stack([s * along + t * across for s, t in ((1, 1), (-1, 1), (-1, -1), (1, -1))], axis=1)
    polygon += center[:, None]
    for axis in (0, 1):
        for sign in (1.0, -1.0):
            polygon = _clipped(polygon, half_b[:, axis, None] - sign * polygon[:, :, axis])
    x, y = polygon[:, :, 0], polygon[:, :, 1]
    intersection = np.abs((x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1)) / 2
    area_a, area_b = 4 * half_a.prod(axis=1), 4 * half_b.prod(axis=1)
    intersection = np.minimum(np.minimum(intersection, area_a), area_b)
    union = area_a + area_b - intersection
    result: np.ndarray = np.divide(intersection, union, out=np.zeros_like(union), where=intersection > 0)
    return result


def _clipped(polygon: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Clips convex polygons by a half-plane (Sutherland and Hodgman 1974).

    Args:
        polygon: corners in order, some of them repeated; shape ``(P, n, 2)``.
        inside: signed distance of each corner from the line; shape ``(P, n)``.

    Returns:
        Shape ``(P, n + 1, 2)``; corners behind the last one repeat it, and polygons with no part inside are points.
    """
    pairs, count = inside.shape
    after, after_inside = np.roll(polygon, -1, axis=1), np.roll(inside, -1, axis=1)
    crosses = (inside >= 0) != (after_inside >= 0)
    share = np.divide(inside, inside - after_inside, out=np.zeros_like(inside), where=crosses)
    points = np.stack([polygon, polygon + share[..., None] * (after - polygon)], axis=2).reshape(pairs, 2 * count, 2)
    kept = np.stack([inside >= 0, crosses], axis=2).reshape(pairs, 2 * count)
    order = np.argsort(~kept, axis=1, kind="stable")[:, : count + 1]
    last = np.maximum(kept.sum(axis=1) - 1, 0)
    order = np.where(
        np.arange(count + 1) <= last[:, None], order, order[np.arange(pairs), np.minimum(last, count), None]
    )
    result: np.ndarray = np.take_along_axis(points, order[..., None], axis=1)
    return result


def probiou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Computes the probabilistic intersection over union of pairs of rotated boxes.

    Args:
        a: center x, center y, width, height, angle in radians; float64, shape ``(P, 5)``.
        b: the other box of each pair.

    Returns:
        float64, shape ``(P,)``; a box without area overlaps nothing.
    """
    a1, b1, c1 = _covariance(a)
    a2, b2, c2 = _covariance(b)
    area = (np.minimum(a[:, 2:4], b[:, 2:4]) > 0).all(axis=1)
    x, y = a[:, 0] - b[:, 0], a[:, 1] - b[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        determinant = (a1 + a2) * (b1 + b2) - (c1 + c2) ** 2
        distance = ((a1 + a2) * y**2 + (b1 + b2) * x**2 - 2 * (c1 + c2) * x * y) / (4 * determinant)
        # The product of the determinants of the covariances, (width * height / 12)^2 each.
        roots = a[:, 2] * a[:, 3] * b[:, 2] * b[:, 3] / 144
        distance += np.log(determinant / (4 * roots)) / 2
        overlap = 1 - np.sqrt(1 - np.exp(-np.maximum(distance, 0)))
    result: np.ndarray = np.where(area & (determinant > 0), overlap, 0.0)
    return result


def _covariance(box: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns variance along x, along y, and covariance of the Gaussian of each box."""
    along, across = box[:, 2] ** 2 / 12, box[:, 3] ** 2 / 12
    cos, sin = np.cos(box[:, 4]), np.sin(box[:, 4])
    return along * cos**2 + across * sin**2, along * sin**2 + across * cos**2, (along - across) * cos * sin


def highest_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns numbers that `rotated_iou` of pairs is not above, in a tenth of the time; shapes ``(P, 5)``.

    The intersection is in both boxes, and in both of the upright boxes around them.
    """
    sizes = [np.maximum(box[:, 2:4], 0) for box in (a, b)]
    areas = [size[:, 0] * size[:, 1] for size in sizes]
    halves = []
    for box, size in zip((a, b), sizes, strict=True):
        cos, sin = np.abs(np.cos(box[:, 4])), np.abs(np.sin(box[:, 4]))
        halves.append((size[:, 0] * cos + size[:, 1] * sin, size[:, 0] * sin + size[:, 1] * cos))
    common = np.minimum(*areas)
    both = 1.0
    for axis in (0, 1):
        sides = [half[axis] for half in halves]
        apart = np.abs(a[:, axis] - b[:, axis])
        both = both * np.clip((sides[0] + sides[1]) / 2 - apart, 0, np.minimum(*sides))
    common = np.minimum(common, both)
    union = areas[0] + areas[1] - common
    result: np.ndarray = np.divide(common, union, out=np.zeros_like(union), where=common > 0)
    return result


def near(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns whether the circles around rotated boxes touch; shapes ``(..., 5)`` that broadcast."""
    reach = np.hypot(a[..., 2], a[..., 3]) + np.hypot(b[..., 2], b[..., 3])
    squares = (a[..., 0] - b[..., 0]) ** 2 + (a[..., 1] - b[..., 1]) ** 2  # faster than hypot
    result: np.ndarray = 4 * squares <= (reach * (1 + 1e-9)) ** 2
    return result


def near_gaussians(a: np.ndarray, b: np.ndarray, threshold: float) -> np.ndarray:
    """Returns whether `probiou` of rotated boxes can be greater than a threshold; shapes ``(..., 5)`` that broadcast.

    The Bhattacharyya distance of two Gaussians is at least ``d^2 / (4 (l1 + l2))``, where ``d`` is the distance of
    their centers, and ``l1`` and ``l2`` are their largest variances.
    """
    if threshold <= 0:
        return np.ones(np.broadcast_shapes(a.shape, b.shape)[:-1], bool)
    most = -np.log(1 - (1 - threshold) ** 2)
    variances = [np.maximum(box[..., 2], box[..., 3]) ** 2 / 12 for box in (a, b)]
    squares = (a[..., 0] - b[..., 0]) ** 2 + (a[..., 1] - b[..., 1]) ** 2
    result: np.ndarray = squares <= 4 * (variances[0] + variances[1]) * most * (1 + 1e-9)
    return result


def circles(boxes: np.ndarray, kinds: np.ndarray, overlap: Literal["rotated", "probiou"], threshold: float) -> Circles:
    """Returns circles that touch wherever `near` or `near_gaussians` is true; ``boxes`` has the shape ``(N, 5)``."""
    if overlap == "rotated":
        return Circles(boxes[:, :2], np.hypot(boxes[:, 2], boxes[:, 3]) / 2, kinds)
    if threshold <= 0:
        return Circles(boxes[:, :2], np.full(len(boxes), np.inf), kinds)
    # The root of a sum of variances is at most the sum of their roots.
    most = -np.log(1 - (1 - threshold) ** 2)
    return Circles(boxes[:, :2], np.abs(np.maximum(boxes[:, 2], boxes[:, 3])) * np.sqrt(most / 3), kinds)
