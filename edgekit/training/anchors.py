"""Anchors for a data set, from k-means clustering of its box sizes by IoU."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from edgekit.data.examples import Boxes, DataSet
from edgekit.errors import DataError

__all__ = ["BoxSizes", "anchors_from_sizes", "mean_overlap", "size_iou", "sizes_from_examples"]

ROUNDS = 300
TRIES = 10


class BoxSizes(NamedTuple):
    """Box sizes of a data set.

    Attributes:
        sizes: width and height of each box, in input px; float64, shape ``(N, 2)``.
        images: number of images that were read, including those without a box.
        skipped: error message of each image that could not be read.
    """

    sizes: np.ndarray
    images: int
    skipped: list[str]


def sizes_from_examples(
    examples: DataSet, shape: tuple[int, int], *, advance: Callable[[float], None] = lambda amount: None
) -> BoxSizes:
    """Computes the sizes of all boxes after letterboxing the images to an input shape.

    Args:
        examples: images with boxes; ignored boxes are excluded.
        shape: height and width of the input in px.
        advance: progress callback, called for each image.
    """
    height, width = shape
    sizes, skipped = [np.zeros((0, 2))], list[str]()
    for index in range(len(examples)):
        try:
            example = examples[index]
        except DataError as e:
            skipped.append(e.message)
        else:
            assert isinstance(example.target, Boxes) and isinstance(example.input, np.ndarray)
            corners = example.target.corners.astype(np.float64)
            scale = min(height / example.input.shape[0], width / example.input.shape[1])
            sizes.append((corners[:, 2:] - corners[:, :2]) * scale)
        advance(1)
    return BoxSizes(np.concatenate(sizes), len(examples) - len(skipped), skipped)


def anchors_from_sizes(sizes: np.ndarray, count: int, *, seed: int = 0) -> np.ndarray:
    """Clusters box sizes into anchors: "Dimension Clusters" of YOLO9000 (arXiv:1612.08242, section 2).

    The distance between a box and a cluster center is ``1 - IoU`` of the two boxes placed at the same point. With the
    Euclidean distance, large boxes would cause larger errors than small ones. A cluster center is the mean of its
    boxes, as in the paper. The initial centers are drawn as in k-means++ (Arthur and Vassilvitskii 2007).

    Args:
        sizes: widths and heights; floats > 0, shape ``(N, 2)``, N at least ``count``.
        count: number of anchors.
        seed: random seed for the initial centers.

    Returns:
        float64, shape ``(count, 2)``, in ascending order of area.
    """
    sizes = np.asarray(sizes, np.float64)
    random = np.random.default_rng(seed)
    found = [_clustered(sizes, _initial_centers(sizes, count, random)) for _ in range(TRIES)]
    best = max(found, key=lambda centers: mean_overlap(sizes, centers))
    order: np.ndarray = np.argsort(best.prod(axis=1), kind="stable")
    anchors: np.ndarray = best[order]
    return anchors


def size_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of every size in ``a (N, 2)`` with every size in ``b (M, 2)``, centered on one point; shape ``(N, M)``."""
    intersection = np.minimum(a[:, None], b[None]).prod(axis=2)
    iou: np.ndarray = intersection / (a.prod(axis=1)[:, None] + b.prod(axis=1)[None] - intersection)
    return iou


def mean_overlap(sizes: np.ndarray, anchors: np.ndarray) -> float:
    """Mean IoU of each size with its best anchor ("Avg IOU" in table 1 of YOLO9000)."""
    return float(size_iou(np.asarray(sizes, np.float64), np.asarray(anchors, np.float64)).max(axis=1).mean())


def _initial_centers(sizes: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    centers = sizes[[int(random.integers(len(sizes)))]]
    while len(centers) < count:
        distance = (1 - size_iou(sizes, centers).max(axis=1)) ** 2
        chances = distance / distance.sum() if distance.sum() > 0 else None
        centers = np.concatenate([centers, sizes[[int(random.choice(len(sizes), p=chances))]]])
    return centers


def _clustered(sizes: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Runs k-means until no size changes its cluster, for at most `ROUNDS` iterations."""
    nearest = np.full(len(sizes), -1)
    for _ in range(ROUNDS):
        before, nearest = nearest, size_iou(sizes, centers).argmax(axis=1)
        if (before == nearest).all():
            break
        centers = centers.copy()
        for k in np.unique(nearest):
            centers[k] = sizes[nearest == k].mean(axis=0)
    return centers
