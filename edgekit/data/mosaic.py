"""Mosaic augmentation: combines four images into one, so that a detector sees more, smaller objects in new contexts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.data.augment import Augmentation, augmented, clipped_boxes, moved_boxes, scaled
from edgekit.data.examples import Boxes, DataSet, Example

__all__ = ["augmented_example", "mosaic", "mosaic_of"]

# Range of the point where the four images meet, as a fraction of the side.
_MIN_CENTER, _MAX_CENTER = 0.3, 0.7


def augmented_example(examples: DataSet, index: int, how: Augmentation, random: np.random.Generator) -> Example:
    """Applies the full augmentation ``how`` to one example, including a mosaic of the example's size.

    Args:
        examples: images with classes or boxes; a mosaic is made only if there are boxes.
        index: index of the example.
        how: limits of the augmentation.
        random: random number generator; also selects the other three images of a mosaic.
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
    """Arranges four images around a random point near the center.

    Args:
        examples: four images with boxes.
        size: width and height of the result in px.
        random: random number generator.
        pad: value of pixels that no image covers.
    """
    x, y = (round(side * random.uniform(_MIN_CENTER, _MAX_CENTER)) for side in size)
    # At 1.0 an image is as large as the whole mosaic; at 0.6, about as large as its quarter.
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
    """Arranges four images around ``middle``, in reading order from upper left, cropped at the mosaic's edges.

    Source: Bochkovskiy, Wang and Liao, YOLOv4, arXiv:2004.10934, section 3.3; the layout is that of the Ultralytics
    implementation, in which images keep their aspect ratio.

    Args:
        examples: four images with boxes.
        size: width and height of the result in px.
        middle: point where the four images meet, in px.
        zooms: size of each image, as a fraction of the largest size with its aspect ratio that fits ``size``.
        pad: value of pixels that no image covers.
    """
    width, height = size
    x, y = middle
    canvas = np.full((height, width, 3), pad, np.uint8)
    corners, classes, ignored = [], [], []
    quarters = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    for example, quarter, zoom in zip(examples, quarters, zooms, strict=True):
        image, boxes = _at_zoom(example, size, zoom)
        left = x - image.shape[1] if quarter[0] < x else x
        top = y - image.shape[0] if quarter[1] < y else y
        placed = _pasted(canvas, image, boxes, (left, top), quarter)
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
    image, boxes = example.input, example.target
    assert isinstance(image, np.ndarray) and isinstance(boxes, Boxes)
    if image.ndim == 2:
        image = np.repeat(image[..., np.newaxis], 3, axis=2)
    factor = zoom * min(size[0] / image.shape[1], size[1] / image.shape[0])
    sides = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    resized, followed = scaled(image, boxes, sides)
    assert followed is not None
    return resized, followed


def _pasted(
    canvas: np.ndarray,
    image: np.ndarray,
    boxes: Boxes,
    place: tuple[int, int],
    quarter: tuple[int, int, int, int],
) -> Boxes:
    """Pastes the image with its upper left corner at ``place``, clipped to ``quarter``; returns the visible boxes."""
    left, top = place
    right, bottom = left + image.shape[1], top + image.shape[0]
    x1, y1, x2, y2 = max(left, quarter[0]), max(top, quarter[1]), min(right, quarter[2]), min(bottom, quarter[3])
    canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
    inside = clipped_boxes(moved_boxes(boxes, (1.0, 1.0), (left - x1, top - y1)), (x2 - x1, y2 - y1))
    return moved_boxes(inside, (1.0, 1.0), (x1, y1))
