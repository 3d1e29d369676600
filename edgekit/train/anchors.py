"""Anchors for a data set: the sizes that its boxes have most often, found by k-means on their overlap."""

from __future__ import annotations

import numpy as np

__all__ = ["anchors_from_sizes", "mean_overlap", "size_iou"]

ROUNDS = 300


def anchors_from_sizes(sizes: np.ndarray, count: int, *, seed: int = 0) -> np.ndarray:
    """Cluster centres of widths and heights: "Dimension Clusters" of YOLO9000 (arXiv:1612.08242, section 2).

    The distance of a box from a centre is ``1 - IoU`` with both on the same centre: with Euclid's, large boxes would
    make larger errors than small ones. A centre is the mean of its boxes, as in the paper; the first ones are drawn as
    in k-means++, each far from those before it (Arthur and Vassilvitskii 2007).

    Args:
        sizes: widths and heights; floats > 0, shape ``(N, 2)``, N at least ``count``.
        count: how many anchors.
        seed: of the first centres.

    Returns:
        float64, shape ``(count, 2)``, the smallest area first.
    """
    sizes = np.asarray(sizes, np.float64)
    random = np.random.default_rng(seed)
    centers = sizes[[int(random.integers(len(sizes)))]]
    while len(centers) < count:
        distance = 1 - size_iou(sizes, centers).max(axis=1)
        chances = distance / distance.sum() if distance.sum() > 0 else np.full(len(sizes), 1 / len(sizes))
        centers = np.concatenate([centers, sizes[[int(random.choice(len(sizes), p=chances))]]])
    nearest = np.full(len(sizes), -1)
    for _ in range(ROUNDS):
        before, nearest = nearest, size_iou(sizes, centers).argmax(axis=1)
        if (before == nearest).all():
            break
        for k in np.unique(nearest):
            centers[k] = sizes[nearest == k].mean(axis=0)
    order = np.argsort(centers.prod(axis=1), kind="stable")
    found: np.ndarray = centers[order]
    return found


def size_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Overlap of every size of ``a`` ``(N, 2)`` with every one of ``b`` ``(M, 2)``, on one centre; shape ``(N, M)``."""
    intersection = np.minimum(a[:, None], b[None]).prod(axis=2)
    iou: np.ndarray = intersection / (a.prod(axis=1)[:, None] + b.prod(axis=1)[None] - intersection)
    return iou


def mean_overlap(sizes: np.ndarray, anchors: np.ndarray) -> float:
    """How well the anchors fit: each size's overlap with the best of them, on average ("Avg IOU" in its table 1)."""
    return float(size_iou(np.asarray(sizes, np.float64), np.asarray(anchors, np.float64)).max(axis=1).mean())
