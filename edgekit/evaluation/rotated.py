"""Rotated boxes of annotated outlines."""

from __future__ import annotations

import numpy as np

__all__ = ["rotated_box_of_outline"]


def rotated_box_of_outline(points: np.ndarray) -> np.ndarray:
    """Returns the rectangle of the least area around points, in any direction.

    One of its sides goes through two of the points (Freeman and Shapira 1975), so all pairs are tried.

    Args:
        points: x and y in px, shape ``(K, 2)``.

    Returns:
        Center x, center y, width, height and the angle of the width in radians; float64, shape ``(5,)``.
    """
    points = np.asarray(points, np.float64)
    i, j = np.triu_indices(len(points), 1)
    sides = points[j] - points[i]
    sides = sides[(sides != 0).any(axis=1)]
    if not len(sides):
        return np.array([*points[0], 0.0, 0.0, 0.0])
    angles = np.unique(np.arctan2(sides[:, 1], sides[:, 0]) % np.pi)
    along = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    u, v = points @ along.T, points @ across.T
    width, height = np.ptp(u, axis=0), np.ptp(v, axis=0)
    best = int((width * height).argmin())
    middle = (u[:, best].min() + u[:, best].max()) / 2, (v[:, best].min() + v[:, best].max()) / 2
    center = middle[0] * along[best] + middle[1] * across[best]
    return np.array([*center, width[best], height[best], angles[best]])
