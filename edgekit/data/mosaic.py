"""Mosaic: four pictures put together to one, so that a detector sees more objects, smaller, in other company."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.data.augment import Augmentation, augmented, clipped_boxes, moved_boxes, scaled
from edgekit.data.examples import Boxes, DataSet, Example

__all__ = ["augmented_example", "mosaic", "mosaic_of"]

# The corner where the four meet lies so far from the edges, as a fraction of the side.
_NEAREST, _FARTHEST = 0.3, 0.7


def augmented_example(examples: DataSet, index: int, how: Augmentation, random: np.random.Generator) -> Example:
    """The example at ``index`` after all of ``how``: it may be one of four in a mosaic of its own size.

    Args:
        examples: pictures with classes or boxes; only those with boxes are put together.
        index: which one.
        how: how far it may be changed.
        random: where the numbers, and the places of the other three, come from.
    """
    example = examples[index]
    together = random.random() < how.mosaic
    others = random.integers(len(examples), size=3).tolist()
    if together and isinstance(example.target, Boxes) and isinstance(example.input, np.ndarray):
        height, width = example.input.shape[:2]
        chosen = [example, *(examples[other] for other in others)]
        example = mosaic(chosen, (width, height), random, pad=how.pad)
    return augmented(example, how, random)


def mosaic(
    examples: Sequence[Example], size: tuple[int, int], random: np.random.Generator, *, pad: int = 128
) -> Example:
    """Four pictures around a point that chance chooses, near the middle.

    Args:
        examples: four pictures with boxes.
        size: width and height of the result in px.
        random: where the numbers come from.
        pad: value of a pixel that no picture covers.
    """
    x, y = (round(side * random.uniform(_NEAREST, _FARTHEST)) for side in size)
    # A picture is as large as the whole mosaic at most, and as its own quarter at least.
    zooms = random.uniform(0.6, 1.0, 4)
    return mosaic_of(examples, size, (x, y), zooms.tolist(), pad=pad)


def mosaic_of(
    examples: Sequence[Example],
    size: tuple[int, int],
    middle: tuple[int, int],
    zooms: Sequence[float],
    *,
    pad: int = 128,
) -> Example:
    """Four pictures, each with a corner at ``middle``, cut where the mosaic ends: upper left, upper right, and below.

    Source: Bochkovskiy, Wang and Liao, YOLOv4, arXiv:2004.10934, section 3.3; laid out as in their Ultralytics
    implementation, where pictures keep their aspect ratio.

    Args:
        examples: four pictures with boxes.
        size: width and height of the result in px.
        middle: where the four meet, in px.
        zooms: how large each is, as a fraction of the largest of its aspect ratio that fits ``size``.
        pad: value of a pixel that no picture covers.
    """
    width, height = size
    x, y = middle
    canvas = np.full((height, width, 3), pad, np.uint8)
    corners, classes, ignored = [], [], []
    quarters = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    for example, quarter, zoom in zip(examples, quarters, zooms, strict=True):
        picture, boxes = _at_zoom(example, size, zoom)
        left = x - picture.shape[1] if quarter[0] < x else x
        top = y - picture.shape[0] if quarter[1] < y else y
        placed = _pasted(canvas, picture, boxes, (left, top), quarter)
        corners.append(placed.corners)
        classes.append(placed.classes)
        if placed.ignored is not None:
            ignored.append(placed.ignored)
    aside = None
    if ignored:
        aside = Boxes(
            np.concatenate([boxes.corners for boxes in ignored]), np.concatenate([boxes.classes for boxes in ignored])
        )
    together = Boxes(np.concatenate(corners), np.concatenate(classes), aside)
    return Example(" + ".join(example.id for example in examples), canvas, together)


def _at_zoom(example: Example, size: tuple[int, int], zoom: float) -> tuple[np.ndarray, Boxes]:
    picture, boxes = example.input, example.target
    assert isinstance(picture, np.ndarray) and isinstance(boxes, Boxes)
    if picture.ndim == 2:
        picture = np.repeat(picture[..., np.newaxis], 3, axis=2)
    factor = zoom * min(size[0] / picture.shape[1], size[1] / picture.shape[0])
    sides = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    resized, followed = scaled(picture, boxes, sides)
    assert followed is not None
    return resized, followed


def _pasted(
    canvas: np.ndarray,
    picture: np.ndarray,
    boxes: Boxes,
    place: tuple[int, int],
    quarter: tuple[int, int, int, int],
) -> Boxes:
    """Lays the picture's upper left corner at ``place``, as far as it lies in the quarter; the boxes that show."""
    left, top = place
    right, bottom = left + picture.shape[1], top + picture.shape[0]
    x1, y1, x2, y2 = max(left, quarter[0]), max(top, quarter[1]), min(right, quarter[2]), min(bottom, quarter[3])
    canvas[y1:y2, x1:x2] = picture[y1 - top : y2 - top, x1 - left : x2 - left]
    inside = clipped_boxes(moved_boxes(boxes, (1.0, 1.0), (left - x1, top - y1)), (x2 - x1, y2 - y1))
    return moved_boxes(inside, (1.0, 1.0), (x1, y1))
