"""Masks of objects from prototypes and coefficients (Bolya et al. 2019, YOLACT, arXiv:1904.02689), in numpy.

`edgekit.kernels.masks.reference` has the definition, one pixel at a time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edgekit.errors import RunError

__all__ = ["Crop", "masks_of_boxes", "whole_masks"]


# So many rows of the image at once stay in the cache of one core.
_ROWS = 64


class Crop(NamedTuple):
    """The part of a mask that can be true: that inside the object's box.

    Attributes:
        left: first column in px of the image.
        top: first row in px of the image.
        mask: bool, shape ``(h, w)``.
    """

    left: int
    top: int
    mask: np.ndarray


def masks_of_boxes(
    prototypes: np.ndarray,
    coefficients: np.ndarray,
    boxes: np.ndarray,
    *,
    input_size: tuple[int, int],
    scale: tuple[float, float],
    offset: tuple[float, float],
    size: tuple[int, int],
) -> list[Crop]:
    """Computes the mask of each object at the size of the image.

    A mask is the sum of the prototypes, weighted by the object's coefficients, where it is greater than 0, inside the
    object's box. Before it is compared with 0, the sum is resized bilinearly to the image. If the padding of the input
    does not end between two pixels of the prototypes, the sum is first upsampled to a size at which it does. These are
    the steps of Ultralytics with ``retina_masks=True``.

    Args:
        prototypes: shape ``(C, h, w)``; float32 or float16.
        coefficients: shape ``(N, C)``.
        boxes: corners ``(x1, y1, x2, y2)`` in px of the image, inside it; shape ``(N, 4)``. A pixel is inside if
            ``x1 <= x < x2`` and ``y1 <= y < y2``.
        input_size: width and height of the model's input in px.
        scale: input px per image px, ``(x, y)``.
        offset: position of the image's upper left corner in input px, ``(x, y)``.
        size: width and height of the image in px.

    Raises:
        RunError: there are not as many coefficients as prototypes.
    """
    if prototypes.ndim != 3 or coefficients.shape != (len(boxes), len(prototypes)):
        raise RunError(
            f"prototypes of masks: expected shape (C, h, w) for coefficients (N, C), got {prototypes.shape} and "
            f"{coefficients.shape}"
        )
    channels, height, width = prototypes.shape
    factor = _upsampling((width, height), input_size, scale, offset, size)
    columns, rows = (
        _axis(prototype, factor, *_content(prototype, factor, side, one, start, own), own)
        for prototype, side, one, start, own in zip((width, height), input_size, scale, offset, size, strict=True)
    )
    with np.errstate(all="ignore"):  # a sum that is no number is not greater than 0
        flat = prototypes.reshape(channels, -1).astype(np.float32, copy=False)
        sums = (coefficients.astype(np.float32, copy=False) @ flat).reshape(-1, height, width)
        return [_crop(each, box, columns, rows) for each, box in zip(sums, np.ceil(boxes).astype(int), strict=True)]


def whole_masks(crops: Sequence[Crop], size: tuple[int, int]) -> np.ndarray:
    """Returns masks as one array; bool, shape ``(N, H, W)``.

    Args:
        crops: the masks.
        size: width and height of the image in px.
    """
    masks = np.zeros((len(crops), size[1], size[0]), bool)
    for whole, (left, top, mask) in zip(masks, crops, strict=True):
        whole[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return masks


class _Taps(NamedTuple):
    """The two source pixels around each pixel of a bilinear resize along one axis, and the weight of the second."""

    before: np.ndarray
    after: np.ndarray
    weight: np.ndarray

    def part(self, start: int, stop: int) -> _Taps:
        """Returns the taps of some pixels, and counts source pixels from the first that they have."""
        first = self.before[start]
        return _Taps(self.before[start:stop] - first, self.after[start:stop] - first, self.weight[start:stop])


class _Axis(NamedTuple):
    """The resize of the sums along one axis.

    Attributes:
        upsampling: from pixels of the prototypes to those of the upsampled sums.
        resize: from pixels of the upsampled sums to those of the image.
        matrix: both in one; float32, shape ``(pixels of the image, pixels of a prototype)``.
    """

    upsampling: _Taps
    resize: _Taps
    matrix: np.ndarray

    def sources(self, start: int, stop: int) -> slice:
        """Returns the pixels of the prototypes that some pixels of the image come from."""
        first, last = self.resize.before[start], self.resize.after[stop - 1]
        return slice(int(self.upsampling.before[first]), int(self.upsampling.after[last]) + 1)


def _crop(sums: np.ndarray, box: np.ndarray, columns: _Axis, rows: _Axis) -> Crop:
    left, top, right, bottom = box.tolist()
    mask = np.zeros((max(0, bottom - top), max(0, right - left)), bool)
    if mask.size:
        x, y = columns.sources(left, right), rows.sources(top, bottom)
        wide = sums[y, x] @ columns.matrix[left:right, x].T
        first, last = rows.resize.before[top], rows.resize.after[bottom - 1]
        upsampled = _resized(wide, rows.upsampling.part(first, last + 1))
        taps = rows.resize.part(top, bottom)
        for start in range(0, len(mask), _ROWS):
            few = _Taps(*(each[start : start + _ROWS] for each in taps))
            np.greater(_resized(upsampled, few), 0, out=mask[start : start + _ROWS])
    return Crop(left, top, mask)


def _resized(values: np.ndarray, taps: _Taps) -> np.ndarray:
    """Resizes rows."""
    weight = taps.weight[:, None]
    resized: np.ndarray = values[taps.before]
    after = values[taps.after]
    resized *= 1 - weight
    after *= weight
    resized += after
    return resized


def _upsampling(
    prototype: tuple[int, int],
    input_size: tuple[int, int],
    scale: tuple[float, float],
    offset: tuple[float, float],
    size: tuple[int, int],
) -> int:
    """Returns the least factor at which the image begins and ends between two pixels of the prototypes; 1 if none."""
    factor = 1
    for pixels, side, one, start, own in zip(prototype, input_size, scale, offset, size, strict=True):
        if side % pixels or start != int(start):
            return 1
        stride = side // pixels
        factor = max(factor, stride // math.gcd(stride, int(start), round(own * one)))
    return factor


def _content(prototype: int, factor: int, side: int, scale: float, offset: float, size: int) -> tuple[int, int]:
    """Returns where the image begins and ends on one axis, in px of the upsampled prototypes.

    A crop of the image may begin before them and end after them.
    """
    ratio = prototype * factor / side
    start = round(offset * ratio)
    return start, max(start + 1, round((offset + round(size * scale)) * ratio))


@functools.lru_cache(maxsize=16)  # the images of a video have one size
def _axis(prototype: int, factor: int, start: int, stop: int, size: int) -> _Axis:
    large = prototype * factor
    upsampling = _taps(large, 1 / factor, 0, prototype - 1)
    first, last = max(start, 0), min(stop, large) - 1
    inner = _taps(size, (stop - start) / size, first - start, last - start)
    resize = inner._replace(before=inner.before + start, after=inner.after + start)
    identity = np.eye(prototype, dtype=np.float32)
    return _Axis(upsampling, resize, _resized(_resized(identity, upsampling), resize))


def _taps(pixels: int, step: float, first: int, last: int) -> _Taps:
    """Returns the taps of a number of pixels, which have their centers at 0.5.

    Args:
        pixels: number of pixels.
        step: source pixels per pixel.
        first: source pixels before this one have its value.
        last: source pixels after this one have its value.
    """
    place = np.clip((np.arange(pixels) + 0.5) * step - 0.5, first, last)
    before = np.floor(place).astype(np.int64)
    return _Taps(before, np.minimum(before + 1, last), (place - before).astype(np.float32))
