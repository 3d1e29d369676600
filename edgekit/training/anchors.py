"""Anchors for a data set: the sizes that its boxes have most often, found by k-means on their overlap."""

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
    """What anchors are found from.

    Attributes:
        sizes: width and height of each box, in px of the input; float64, shape ``(N, 2)``.
        pictures: how many they are in, those without a box included.
        skipped: why a picture could not be read, one a picture.
    """

    sizes: np.ndarray
    pictures: int
    skipped: list[str]


def sizes_from_examples(
    examples: DataSet, shape: tuple[int, int], *, advance: Callable[[float], None] = lambda amount: None
) -> BoxSizes:
    """The sizes of a data set's boxes in an input that its pictures are fitted into with their aspect ratio kept.

    Args:
        examples: pictures with boxes; those that are to be ignored do not count.
        shape: height and width of the input in px.
        advance: is told of each picture.
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
    found = [_clustered(sizes, _first(sizes, count, random)) for _ in range(TRIES)]
    best = max(found, key=lambda centers: mean_overlap(sizes, centers))
    order: np.ndarray = np.argsort(best.prod(axis=1), kind="stable")
    anchors: np.ndarray = best[order]
    return anchors


def size_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Overlap of every size of ``a`` ``(N, 2)`` with every one of ``b`` ``(M, 2)``, on one centre; shape ``(N, M)``."""
    intersection = np.minimum(a[:, None], b[None]).prod(axis=2)
    iou: np.ndarray = intersection / (a.prod(axis=1)[:, None] + b.prod(axis=1)[None] - intersection)
    return iou


def mean_overlap(sizes: np.ndarray, anchors: np.ndarray) -> float:
    """How well the anchors fit: each size's overlap with the best of them, on average ("Avg IOU" in its table 1)."""
    return float(size_iou(np.asarray(sizes, np.float64), np.asarray(anchors, np.float64)).max(axis=1).mean())


def _first(sizes: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    centers = sizes[[int(random.integers(len(sizes)))]]
    while len(centers) < count:
        distance = (1 - size_iou(sizes, centers).max(axis=1)) ** 2
        chances = distance / distance.sum() if distance.sum() > 0 else None
        centers = np.concatenate([centers, sizes[[int(random.choice(len(sizes), p=chances))]]])
    return centers


def _clustered(sizes: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Centres after each has moved among its own sizes until none of these changes sides."""
    nearest = np.full(len(sizes), -1)
    for _ in range(ROUNDS):
        before, nearest = nearest, size_iou(sizes, centers).argmax(axis=1)
        if (before == nearest).all():
            break
        centers = centers.copy()
        for k in np.unique(nearest):
            centers[k] = sizes[nearest == k].mean(axis=0)
    return centers
