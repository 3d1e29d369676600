"""Where an image lies in a model's input, from sizes alone: one computation for the CPU and for the GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import PIL
from packaging.version import Version

from edgekit.errors import RecipeError
from edgekit.recipe.schema import Preprocess

__all__ = ["REDUCING_GAP", "Antialiasing", "Geometry", "Placement", "antialiasing", "placement"]

# Pillow averages whole blocks first if an image shrinks more than twice this factor: the difference is invisible, and
# 20 megapixels take a fraction of the time.
REDUCING_GAP = 3.0

# Since version 13, Pillow resizes the vertical axis first if the height shrinks far more than the width.
_MAY_START_VERTICALLY = Version(PIL.__version__) >= Version("13.0")


@dataclass(frozen=True)
class Placement:
    """Maps image coordinates to model input coordinates: ``input = image * scale + offset``, for each axis.

    Boxes are corners ``(x1, y1, x2, y2)``.

    Attributes:
        scale: input px per image px, ``(x, y)``; the two differ if sizes were rounded to whole px.
        offset: position of the image's upper left corner in input px, ``(x, y)``; negative after a crop.
        size: width and height of the image in px.
        input_size: width and height of the input in px.
    """

    scale: tuple[float, float]
    offset: tuple[float, float]
    size: tuple[int, int]
    input_size: tuple[int, int]

    def to_image(self, boxes: np.ndarray) -> np.ndarray:
        """Converts corners in input px, shape ``(N, 4)``, to float32 corners in image px, clipped to the image."""
        corners = (boxes.astype(np.float64).reshape(-1, 2, 2) - self.offset) / self.scale
        return np.clip(corners, 0, self.size).reshape(-1, 4).astype(np.float32)

    def to_input(self, boxes: np.ndarray) -> np.ndarray:
        """Converts corners in image px, shape ``(N, 4)``, to float32 corners in input px."""
        corners = boxes.astype(np.float64).reshape(-1, 2, 2) * self.scale + self.offset
        return corners.reshape(-1, 4).astype(np.float32)


@dataclass(frozen=True)
class Geometry:
    """The resizing of an image for an input. Pairs are ``(x, y)`` or ``(width, height)``.

    Attributes:
        image: size of the image in px.
        input_size: size of the input in px.
        resized: size of the whole image after resizing, before a crop.
        size: size of the rectangle of the input that the image fills; all else is padding.
        corner: upper left corner of that rectangle.
        skipped: px of the resized image that a crop cuts off at the left and at the top.
        gain: input px per image px by which a trainer maps boxes back, on both axes, although sizes are whole px; 0 if
            it takes the scale.
    """

    image: tuple[int, int]
    input_size: tuple[int, int]
    resized: tuple[int, int]
    size: tuple[int, int]
    corner: tuple[int, int] = (0, 0)
    skipped: tuple[int, int] = (0, 0)
    gain: float = 0.0

    @property
    def scale(self) -> tuple[float, float]:
        """Input px per image px."""
        return (self.resized[0] / self.image[0], self.resized[1] / self.image[1])

    @property
    def step(self) -> tuple[float, float]:
        """Image px per px of the resized image, rounded as OpenCV rounds it: the reciprocal of the scale."""
        return (1 / self.scale[0], 1 / self.scale[1])

    @property
    def placement(self) -> Placement:
        """The map from image coordinates to input coordinates."""
        offset = (float(self.corner[0] - self.skipped[0]), float(self.corner[1] - self.skipped[1]))
        scale = (self.gain, self.gain) if self.gain else self.scale
        return Placement(scale, offset, self.image, self.input_size)

    @property
    def part(self) -> tuple[float, float, float, float]:
        """Corners of the part of the image that fills the rectangle, in image px."""
        scale, end = self.scale, (self.skipped[0] + self.size[0], self.skipped[1] + self.size[1])
        right, bottom = (min(end[axis] / scale[axis], self.image[axis]) for axis in (0, 1))  # rounding may exceed it
        return (self.skipped[0] / scale[0], self.skipped[1] / scale[1], right, bottom)


def placement(how: Preprocess, image: tuple[int, int], size: tuple[int, int]) -> Geometry:
    """Computes where an image lies in an input.

    Args:
        how: the resizing.
        image: width and height of the image in px.
        size: width and height of the input in px.

    Raises:
        RecipeError: ``how.resize_to`` is smaller than the input.
    """
    if how.resize == "letterbox":
        return _letterbox(image, size, how)
    if how.resize == "crop":
        return _crop(image, size, how.resize_to)
    return Geometry(image, size, resized=size, size=size)


def _letterbox(image: tuple[int, int], size: tuple[int, int], how: Preprocess) -> Geometry:
    """Letterboxes like one of three trainers; the aspect ratio is kept.

    By default like Darknet's ``letterbox_image``: sizes and offsets rounded down, the image centered. With
    ``rounding='nearest'`` like Ultralytics' ``LetterBox``, whose ``scale_boxes`` has a factor for each axis since
    version 8.4; with ``place='corner'`` like YOLOX's ``preproc``, which maps boxes back with one factor.
    """
    (width, height), (out_width, out_height) = image, size
    least = min(out_width / width, out_height / height)
    gain = least if how.place == "corner" else 0.0
    if how.rounding == "nearest":
        inner = (max(1, round(width * least)), max(1, round(height * least)))
        # A free px that cannot be halved is at the right or at the bottom.
        corner = (round((out_width - inner[0]) / 2 - 0.1), round((out_height - inner[1]) / 2 - 0.1))
        corner = corner if how.place == "center" else (0, 0)
        return Geometry(image, size, resized=inner, size=inner, corner=corner, gain=gain)
    if out_width * height < out_height * width:
        inner = (out_width, max(1, height * out_width // width))
    else:
        inner = (max(1, width * out_height // height), out_height)
    corner = ((out_width - inner[0]) // 2, (out_height - inner[1]) // 2) if how.place == "center" else (0, 0)
    return Geometry(image, size, resized=inner, size=inner, corner=corner, gain=gain)


def _crop(image: tuple[int, int], size: tuple[int, int], short_side: int) -> Geometry:
    """Crops like torchvision's ``Resize(short_side)`` and ``CenterCrop(size)``, with the same rounding."""
    (width, height), (out_width, out_height) = image, size
    if 0 < short_side < max(size):
        raise RecipeError(
            f"preprocess.resize_to: expected 0 or at least {max(size)}, the input's size, got {short_side}"
        )
    if short_side:
        resized = (max(short_side, short_side * width // height), max(short_side, short_side * height // width))
    else:
        resized = (max(out_width, out_height * width // height), max(out_height, out_width * height // width))
    skipped = (round((resized[0] - out_width) / 2), round((resized[1] - out_height) / 2))
    return Geometry(image, size, resized=resized, size=size, skipped=skipped)


@dataclass(frozen=True)
class Antialiasing:
    """The steps of Pillow's antialiased resizing: it may average blocks of a part of the image before it resizes.

    Attributes:
        part: the part that is averaged, ``(left, top, right, bottom)`` in image px.
        factor: width and height of a block; ``(1, 1)`` if there is nothing to average.
        box: the part that is resized then, ``(left, top, right, bottom)`` in px of the averaged image.
        vertical_first: whether the vertical axis is resized first; the result of the first axis is rounded to 8 bits.
    """

    part: tuple[int, int, int, int]
    factor: tuple[int, int]
    box: tuple[float, float, float, float]
    vertical_first: bool


def antialiasing(where: Geometry) -> Antialiasing:
    """Computes the steps of Pillow's ``Image.resize(where.size, BILINEAR, where.part, REDUCING_GAP)``."""
    box, (width, height) = where.part, where.image
    scale = ((box[2] - box[0]) / where.size[0], (box[3] - box[1]) / where.size[1])
    factor = (int(scale[0] / REDUCING_GAP) or 1, int(scale[1] / REDUCING_GAP) or 1)
    part = (0, 0, width, height)
    if factor != (1, 1):
        # The part has a margin, half the width of the triangle less half a px.
        margin = (scale[0] / 2, scale[1] / 2)
        part = (
            max(0, int(box[0] - margin[0])),
            max(0, int(box[1] - margin[1])),
            min(width, math.ceil(box[2] + margin[0])),
            min(height, math.ceil(box[3] + margin[1])),
        )
        box = (
            (box[0] - part[0]) / factor[0],
            (box[1] - part[1]) / factor[1],
            (box[2] - part[0]) / factor[0],
            (box[3] - part[1]) / factor[1],
        )
    lost_x, lost_y = (math.ceil((part[axis + 2] - part[axis]) / factor[axis]) - where.size[axis] for axis in (0, 1))
    return Antialiasing(part, factor, box, _MAY_START_VERTICALLY and lost_y > max(0, 2 * lost_x))
