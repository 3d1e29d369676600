"""Augments an image and its boxes: flip, crop, scale and color jitter.

Each function is deterministic; `augmented` draws the random parameters. Mosaics are in `edgekit.data.mosaic`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from edgekit.data.examples import Boxes, Example
from edgekit.errors import UsageError, nearest

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "augmentation_from_names",
    "augmented",
    "clipped_boxes",
    "flipped",
    "jittered",
    "moved_boxes",
    "padded_crop",
    "scaled",
]

Window = tuple[int, int, int, int]

# Boxes with a smaller visible fraction show too little of the object to train on; Ultralytics' value for mosaics,
# applied to all boxes here.
_MIN_VISIBLE = 0.1
_SMALLEST_SIDE_PX = 2.0


@dataclass(frozen=True)
class Augmentation:
    """Augmentation limits; the defaults change nothing.

    Attributes:
        flip: probability of a horizontal flip. Do not use it for digits and letters.
        scale: the image's size is multiplied by a factor between ``1 - scale`` and ``1 + scale``.
        shift: the image is moved by up to this fraction of its side, in either direction.
        stretch: the width is multiplied or divided by up to ``1 + stretch``, like Darknet's jitter.
        hue: the hue is shifted by up to this fraction of the color circle, either way (Darknet's ``hue=.1``).
        saturation: multiplied or divided by a factor up to this (Darknet's ``saturation=1.5``); 1 changes nothing.
        exposure: brightness is multiplied or divided by a factor up to this (Darknet's ``exposure=1.5``).
        mosaic: probability of combining four images into one; see `edgekit.data.mosaic`.
        pad: value of pixels outside the image.
    """

    flip: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    stretch: float = 0.0
    hue: float = 0.0
    saturation: float = 1.0
    exposure: float = 1.0
    mosaic: float = 0.0
    pad: int = 128


AUGMENTATIONS: dict[str, dict[str, float]] = {
    "flip": {"flip": 0.5},
    "crop": {"shift": 0.1},
    "scale": {"scale": 0.3, "stretch": 0.2},
    "color": {"hue": 0.1, "saturation": 1.5, "exposure": 1.5},
    "mosaic": {"mosaic": 0.5},
}
"""Named augmentations and their limits; color values are those of Darknet's cfg files."""


def augmentation_from_names(names: Sequence[str], *, pad: int = 128) -> Augmentation:
    """Combines named augmentations into one `Augmentation`.

    Raises:
        UsageError: a name is not in `AUGMENTATIONS`.
    """
    numbers: dict[str, float] = {}
    for name in names:
        if name not in AUGMENTATIONS:
            raise UsageError(f"unknown augmentation '{name}'", hint=nearest(name, AUGMENTATIONS))
        numbers |= AUGMENTATIONS[name]
    return Augmentation(**numbers, pad=pad)


def augmented(example: Example, how: Augmentation, random: np.random.Generator) -> Example:
    """Applies a random augmentation within the limits of ``how``, except the mosaic.

    The image keeps its size. Random numbers are drawn in the same order for every ``how``, so that the same generator
    gives the same changes.

    Args:
        example: an image with its class or its boxes.
        how: limits of the augmentation.
        random: random number generator.
    """
    image, target = example.input, example.target
    assert isinstance(image, np.ndarray)
    boxes = target if isinstance(target, Boxes) else None
    if random.random() < how.flip:
        image, boxes = flipped(image, boxes)
    height, width = image.shape[:2]
    size = 1 + random.uniform(-how.scale, how.scale)
    stretch = (1 + how.stretch) ** random.uniform(-1, 1)
    shift_x, shift_y = random.uniform(-how.shift, how.shift, 2)
    part = (max(1, round(width / (size * stretch))), max(1, round(height / size)))
    if part != (width, height) or how.shift:
        left, top = round((width - part[0]) / 2 - shift_x * width), round((height - part[1]) / 2 - shift_y * height)
        image, boxes = padded_crop(image, boxes, (left, top, left + part[0], top + part[1]), how.pad)
        image, boxes = scaled(image, boxes, (width, height))
    hue, saturation, exposure = random.uniform(-1, 1, 3)
    image = jittered(image, how.hue * hue, how.saturation**saturation, how.exposure**exposure)
    return Example(example.id, image, target if boxes is None else boxes)


def flipped(
    image: np.ndarray, boxes: Boxes | None = None, axis: Literal["x", "y"] = "x"
) -> tuple[np.ndarray, Boxes | None]:
    """Flips an image and its boxes horizontally (``axis="x"``) or vertically."""
    first, last = (0, 2) if axis == "x" else (1, 3)
    mirrored = np.ascontiguousarray(image[:, ::-1] if axis == "x" else image[::-1])
    if boxes is None:
        return mirrored, None
    side = image.shape[1 if axis == "x" else 0]
    corners = boxes.corners.copy()
    corners[:, [first, last]] = side - corners[:, [last, first]]
    ignored = None if boxes.ignored is None else flipped(image, boxes.ignored, axis)[1]
    return mirrored, Boxes(corners, boxes.classes, ignored)


def padded_crop(image: np.ndarray, boxes: Boxes | None, window: Window, pad: int) -> tuple[np.ndarray, Boxes | None]:
    """Crops to the non-empty window ``(left, top, right, bottom)`` in px; pixels outside the image become ``pad``."""
    left, top, right, bottom = window
    height, width = image.shape[:2]
    part = np.full((bottom - top, right - left, *image.shape[2:]), pad, np.uint8)
    inner_left, inner_top = max(0, left), max(0, top)
    inner = image[inner_top : max(inner_top, min(height, bottom)), inner_left : max(inner_left, min(width, right))]
    part[inner_top - top :, inner_left - left :][: inner.shape[0], : inner.shape[1]] = inner
    if boxes is None:
        return part, None
    return part, clipped_boxes(moved_boxes(boxes, (1.0, 1.0), (-left, -top)), (right - left, bottom - top))


def scaled(image: np.ndarray, boxes: Boxes | None, size: tuple[int, int]) -> tuple[np.ndarray, Boxes | None]:
    """Resizes to ``size``, width and height in px; the aspect ratio is not kept."""
    height, width = image.shape[:2]
    resized = np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0))
    return resized, None if boxes is None else moved_boxes(boxes, (size[0] / width, size[1] / height), (0, 0))


def jittered(image: np.ndarray, hue: float, saturation: float, exposure: float) -> np.ndarray:
    """Changes colors in HSV like Darknet; a grayscale image changes in exposure only.

    Args:
        image: uint8 RGB ``(H, W, 3)`` or grayscale ``(H, W)``.
        hue: shift, as a fraction of the color circle; 0 changes nothing.
        saturation: factor; 1 changes nothing.
        exposure: factor of the HSV value; 1 changes nothing.
    """
    if image.ndim == 2:
        return image if exposure == 1 else _looked_up(_stepped(exposure), image)
    if hue == 0 and saturation == 1 and exposure == 1:
        return image
    planes = Image.fromarray(image).convert("HSV").split()
    turned = (np.arange(256) + round(hue * 256)) % 256
    tables = (turned.astype(np.uint8), _stepped(saturation), _stepped(exposure))
    changed = [plane.point(table.tolist()) for plane, table in zip(planes, tables, strict=True)]
    return np.array(Image.merge("HSV", changed).convert("RGB"))


def moved_boxes(boxes: Boxes, scale: tuple[float, float], offset: tuple[float, float]) -> Boxes:
    """Maps box corners to ``corner * scale + offset``, for x and y."""
    corners = (boxes.corners.reshape(-1, 2, 2).astype(np.float64) * scale + offset).reshape(-1, 4).astype(np.float32)
    ignored = None if boxes.ignored is None else moved_boxes(boxes.ignored, scale, offset)
    return Boxes(corners, boxes.classes, ignored)


def clipped_boxes(boxes: Boxes, size: tuple[int, int]) -> Boxes:
    """Clips boxes to an image of ``size``, width and height in px.

    Drops a box if less than a tenth of its area is left, or if a side that was longer shrinks to less than 2 px.
    """
    whole = boxes.corners
    corners = np.clip(whole, 0, np.array([*size, *size], np.float32))
    sides, left = whole[:, 2:] - whole[:, :2], corners[:, 2:] - corners[:, :2]
    kept = (left >= np.minimum(sides, _SMALLEST_SIDE_PX)).all(1) & (left.prod(1) >= _MIN_VISIBLE * sides.prod(1))
    kept &= (left > 0).all(1)
    ignored = None if boxes.ignored is None else clipped_boxes(boxes.ignored, size)
    return Boxes(corners[kept], boxes.classes[kept], ignored)


def _looked_up(table: np.ndarray, image: np.ndarray) -> np.ndarray:
    changed: np.ndarray = table[image]
    return changed


def _stepped(factor: float) -> np.ndarray:
    table: np.ndarray = np.clip(np.rint(np.arange(256) * factor), 0, 255).astype(np.uint8)
    return table
