"""Changes to a picture after which it shows the same things: flip, crop, scale and colour; boxes follow.

Each is a function of the picture, the boxes and numbers, which `augmented` draws. What takes several pictures is in
`edgekit.data.mosaic`.
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

# A box of which less is left inside the picture shows too little of its object to learn from; Ultralytics' number for
# mosaics, applied to boxes here.
_LEAST_LEFT = 0.1
_SMALLEST_SIDE_PX = 2.0


@dataclass(frozen=True)
class Augmentation:
    """How far a picture may be changed; the defaults change nothing.

    Attributes:
        flip: how probable it is that left and right are exchanged. Not for digits and letters.
        scale: the picture's size is multiplied by a number between ``1 - scale`` and ``1 + scale``.
        shift: it is moved by up to this fraction of its side, either way.
        stretch: its width is multiplied by up to ``1 + stretch`` or divided by it, as Darknet's jitter does.
        hue: turned by up to this fraction of the circle of colours, either way (Darknet's ``hue=.1``).
        saturation: multiplied or divided by a number up to this (Darknet's ``saturation=1.5``); 1 changes nothing.
        exposure: brightness, multiplied or divided by a number up to this (Darknet's ``exposure=1.5``).
        mosaic: how probable it is that four pictures are put together to one; see `edgekit.data.mosaic`.
        pad: value of a pixel outside the picture.
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
"""What can be asked for by name, and how far each goes: colours as Darknet's cfg files have them."""


def augmentation_from_names(names: Sequence[str], *, pad: int = 128) -> Augmentation:
    """The augmentation that these names stand for together.

    Raises:
        UsageError: one is not of `AUGMENTATIONS`.
    """
    numbers: dict[str, float] = {}
    for name in names:
        if name not in AUGMENTATIONS:
            raise UsageError(f"unknown augmentation '{name}'", hint=nearest(name, AUGMENTATIONS))
        numbers |= AUGMENTATIONS[name]
    return Augmentation(**numbers, pad=pad)


def augmented(example: Example, how: Augmentation, random: np.random.Generator) -> Example:
    """The example with its picture changed by as much as chance and ``how`` have it, the mosaic left aside.

    The picture keeps its size. The numbers are drawn in the same order whatever ``how`` is, so that the same generator
    gives the same changes.

    Args:
        example: a picture with its class or its boxes.
        how: how far it may be changed.
        random: where the numbers come from.
    """
    picture, target = example.input, example.target
    assert isinstance(picture, np.ndarray)
    boxes = target if isinstance(target, Boxes) else None
    if random.random() < how.flip:
        picture, boxes = flipped(picture, boxes)
    height, width = picture.shape[:2]
    size = 1 + random.uniform(-how.scale, how.scale)
    stretch = (1 + how.stretch) ** random.uniform(-1, 1)
    shift_x, shift_y = random.uniform(-how.shift, how.shift, 2)
    part = (max(1, round(width / (size * stretch))), max(1, round(height / size)))
    if part != (width, height) or how.shift:
        left, top = round((width - part[0]) / 2 - shift_x * width), round((height - part[1]) / 2 - shift_y * height)
        picture, boxes = padded_crop(picture, boxes, (left, top, left + part[0], top + part[1]), how.pad)
        picture, boxes = scaled(picture, boxes, (width, height))
    hue, saturation, exposure = random.uniform(-1, 1, 3)
    picture = jittered(picture, how.hue * hue, how.saturation**saturation, how.exposure**exposure)
    return Example(example.id, picture, target if boxes is None else boxes)


def flipped(
    picture: np.ndarray, boxes: Boxes | None = None, axis: Literal["x", "y"] = "x"
) -> tuple[np.ndarray, Boxes | None]:
    """Left and right exchanged, or top and bottom."""
    first, last = (0, 2) if axis == "x" else (1, 3)
    mirrored = np.ascontiguousarray(picture[:, ::-1] if axis == "x" else picture[::-1])
    if boxes is None:
        return mirrored, None
    side = picture.shape[1 if axis == "x" else 0]
    corners = boxes.corners.copy()
    corners[:, [first, last]] = side - corners[:, [last, first]]
    ignored = None if boxes.ignored is None else flipped(picture, boxes.ignored, axis)[1]
    return mirrored, Boxes(corners, boxes.classes, ignored)


def padded_crop(picture: np.ndarray, boxes: Boxes | None, window: Window, pad: int) -> tuple[np.ndarray, Boxes | None]:
    """The part ``(left, top, right, bottom)`` in px, not empty; outside the picture it has the value ``pad``."""
    left, top, right, bottom = window
    height, width = picture.shape[:2]
    part = np.full((bottom - top, right - left, *picture.shape[2:]), pad, np.uint8)
    inner_left, inner_top = max(0, left), max(0, top)
    inner = picture[inner_top : max(inner_top, min(height, bottom)), inner_left : max(inner_left, min(width, right))]
    part[inner_top - top :, inner_left - left :][: inner.shape[0], : inner.shape[1]] = inner
    if boxes is None:
        return part, None
    return part, clipped_boxes(moved_boxes(boxes, (1.0, 1.0), (-left, -top)), (right - left, bottom - top))


def scaled(picture: np.ndarray, boxes: Boxes | None, size: tuple[int, int]) -> tuple[np.ndarray, Boxes | None]:
    """The picture at ``size``, width and height in px; its aspect ratio changes where that of ``size`` is another."""
    height, width = picture.shape[:2]
    resized = np.array(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0))
    return resized, None if boxes is None else moved_boxes(boxes, (size[0] / width, size[1] / height), (0, 0))


def jittered(picture: np.ndarray, hue: float, saturation: float, exposure: float) -> np.ndarray:
    """The colours changed as Darknet changes them, in HSV; of a grey picture the exposure alone.

    Args:
        picture: uint8 RGB ``(H, W, 3)`` or grey ``(H, W)``.
        hue: turned by this fraction of the circle of colours; 0 leaves it.
        saturation: multiplied by this; 1 leaves it.
        exposure: the value of HSV is multiplied by this; 1 leaves it.
    """
    if picture.ndim == 2:
        return picture if exposure == 1 else _looked_up(_stepped(exposure), picture)
    if hue == 0 and saturation == 1 and exposure == 1:
        return picture
    planes = Image.fromarray(picture).convert("HSV").split()
    turned = (np.arange(256) + round(hue * 256)) % 256
    tables = (turned.astype(np.uint8), _stepped(saturation), _stepped(exposure))
    changed = [plane.point(table.tolist()) for plane, table in zip(planes, tables, strict=True)]
    return np.array(Image.merge("HSV", changed).convert("RGB"))


def moved_boxes(boxes: Boxes, scale: tuple[float, float], offset: tuple[float, float]) -> Boxes:
    """Boxes where ``corner * scale + offset`` takes them, x and y each."""
    corners = (boxes.corners.reshape(-1, 2, 2).astype(np.float64) * scale + offset).reshape(-1, 4).astype(np.float32)
    ignored = None if boxes.ignored is None else moved_boxes(boxes.ignored, scale, offset)
    return Boxes(corners, boxes.classes, ignored)


def clipped_boxes(boxes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes cut at the edges of a picture of ``size``, width and height in px.

    One of which less than a tenth is left, or a strip of less than 2 px where it was wider, is left out.
    """
    whole = boxes.corners
    corners = np.clip(whole, 0, np.array([*size, *size], np.float32))
    sides, left = whole[:, 2:] - whole[:, :2], corners[:, 2:] - corners[:, :2]
    kept = (left >= np.minimum(sides, _SMALLEST_SIDE_PX)).all(1) & (left.prod(1) >= _LEAST_LEFT * sides.prod(1))
    kept &= (left > 0).all(1)
    ignored = None if boxes.ignored is None else clipped_boxes(boxes.ignored, size)
    return Boxes(corners[kept], boxes.classes[kept], ignored)


def _looked_up(table: np.ndarray, picture: np.ndarray) -> np.ndarray:
    changed: np.ndarray = table[picture]
    return changed


def _stepped(factor: float) -> np.ndarray:
    table: np.ndarray = np.clip(np.rint(np.arange(256) * factor), 0, 255).astype(np.uint8)
    return table
