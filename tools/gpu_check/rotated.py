"""Rotated boxes for the check of decoding: made outputs, and the same detections in torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.recipe.heads import YoloV8

__all__ = ["CELLS", "CLASSES", "HEAD", "candidates", "fast_nms", "made_rotated", "probiou"]

CELLS, CLASSES = 8400, 15  # of an image of 640 px, and of DOTA
HEAD = YoloV8(output="output0", extras=1, angle=True, overlap="probiou", suppression="fast")


def made_rotated(random: np.random.Generator, images: int, passing: int, size: int) -> np.ndarray:
    """Returns outputs of `HEAD` with ``passing`` candidates per image; float32, ``(images, 5 + CLASSES, CELLS)``.

    Args:
        random: the source of the numbers.
        images: number of images.
        passing: number of boxes of an image with a score above 0.26; the scores of others are below 0.2.
        size: side of the input in px.
    """
    scores = random.uniform(0, 0.2, (images, CELLS, CLASSES))
    for row in scores:
        chosen = random.permutation(CELLS)[:passing]
        row[chosen, random.integers(0, CLASSES, len(chosen))] = random.uniform(0.26, 1, len(chosen))
    center, sides = random.uniform(0, size, (images, CELLS, 2)), random.uniform(4, 120, (images, CELLS, 2))
    angle = random.uniform(-np.pi / 4, 3 * np.pi / 4, (images, CELLS, 1))
    rows = np.concatenate([center, sides, scores, angle], axis=2)
    return np.ascontiguousarray(rows.transpose(0, 2, 1), np.float32)


def candidates(planes: Any, score_threshold: float) -> tuple[Any, Any, Any]:
    """Returns boxes ``(M, 5)``, scores and classes of an image's output, a tensor ``(5 + CLASSES, CELLS)``."""
    scores, classes = planes[4:-1].max(dim=0)
    passing = scores > score_threshold
    return planes[[0, 1, 2, 3, -1]][:, passing].T, scores[passing], classes[passing]


def fast_nms(boxes: Any, scores: Any, classes: Any, iou_threshold: float, capacity: int) -> Any:
    """Returns the indices of the boxes that no better one of their class suppresses, best first (arXiv:1904.02689)."""
    import torch

    order = torch.argsort(scores, descending=True, stable=True)[:capacity]
    kinds = classes[order]
    overlaps = probiou(boxes[order]) > iou_threshold
    suppressed = torch.triu(overlaps & (kinds[:, None] == kinds[None]), diagonal=1).any(dim=0)
    return order[~suppressed]


def probiou(boxes: Any) -> Any:
    """Returns the probabilistic overlap of each box with each, shape ``(M, M)`` (arXiv:2106.06072)."""
    import torch

    x, y, width, height, angle = boxes.T
    along, across, cos, sin = width**2 / 12, height**2 / 12, torch.cos(angle), torch.sin(angle)
    a, b = along * cos**2 + across * sin**2, along * sin**2 + across * cos**2
    c = (along - across) * cos * sin
    roots = along.sqrt() * across.sqrt()  # of the determinants
    a, b, c, dx, dy = (each[:, None] + sign * each[None] for each, sign in ((a, 1), (b, 1), (c, 1), (x, -1), (y, -1)))
    determinant = a * b - c**2
    distance = (a * dy**2 + b * dx**2 - 2 * c * dx * dy) / (4 * determinant)
    distance = distance + torch.log(determinant / (4 * roots[:, None] * roots[None])) / 2
    return 1 - torch.sqrt(1 - torch.exp(-distance.clamp(min=0)))
