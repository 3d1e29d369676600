"""Preprocessing on the CPU, with the same results as `edgekit.kernels.preprocess.reference`: numpy, Pillow, OpenCV."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from PIL import Image

from edgekit.kernels.preprocess.geometry import REDUCING_GAP, Geometry
from edgekit.recipe.schema import Preprocess

__all__ = ["normalize", "resample"]

Resize: TypeAlias = "Callable[[np.ndarray, tuple[int, int], str], np.ndarray]"

# A crop from a resized image that is larger than this many times the crop is computed alone.
_MOST_WASTE = 4
_LINEAR_ONE = 2048  # OpenCV's weights of 8-bit images have 11 bits
_ROWS_AT_ONCE = 32  # few enough for intermediate results to stay in the processor's cache


def resample(image: np.ndarray | Image.Image, how: Preprocess, where: Geometry) -> np.ndarray:
    """Resizes an image to the rectangle of the input that it fills.

    Args:
        image: RGB, or gray if ``how.color`` is ``gray``; uint8, shape ``(H, W, 3)`` or ``(H, W)``, or a Pillow image.
        how: the interpolation.
        where: sizes and crop.

    Returns:
        uint8, shape ``(h, w, 3)`` or ``(h, w)`` for a ``where.size`` of ``(w, h)``.
    """
    if how.interpolation == "bilinear" and how.antialias:
        whole = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        return np.asarray(
            whole.resize(where.size, Image.Resampling.BILINEAR, box=where.part, reducing_gap=REDUCING_GAP)
        )
    pixels = np.asarray(image)
    (width, height), (left, top) = where.size, where.skipped
    resize = _opencv()
    if resize is not None and where.resized[0] * where.resized[1] <= _MOST_WASTE * width * height:
        return resize(pixels, where.resized, how.interpolation)[top : top + height, left : left + width]
    return _nearest(pixels, where) if how.interpolation == "nearest" else _bilinear(pixels, where)


def normalize(pixels: np.ndarray, how: Preprocess, where: Geometry, size: tuple[int, int]) -> np.ndarray:
    """Pads and normalizes: ``(pixel / divisor - mean) / std`` per channel, in float32, each step rounded.

    Args:
        pixels: what `resample` returns.
        how: padding, channel order, layout, normalization.
        where: place of the pixels in the input.
        size: width and height of the input in px.

    Returns:
        float32, contiguous, shape ``(1, C, H, W)`` or ``(1, H, W, C)``.
    """
    width, height = size
    shape = (how.channels, height, width) if how.layout == "nchw" else (height, width, how.channels)
    batch = np.empty((1, *shape), np.float32)
    targets = batch[0] if how.layout == "nchw" else batch[0].transpose(2, 0, 1)
    left, top, right, bottom = *where.corner, where.corner[0] + where.size[0], where.corner[1] + where.size[1]
    channels = [pixels] if pixels.ndim == 2 else [pixels[..., channel] for channel in range(pixels.shape[2])]
    if how.color == "bgr":
        channels.reverse()
    for source, target, mean, std in zip(channels, targets, how.mean, how.std, strict=True):
        inner = target[top:bottom, left:right]
        inner[...] = source
        _normalize(inner, how.divisor, mean, std)
        pad = np.array([how.pad], np.float32)
        _normalize(pad, how.divisor, mean, std)
        for border in (target[:top], target[bottom:], target[top:bottom, :left], target[top:bottom, right:]):
            border[...] = pad
    return batch


def _normalize(values: np.ndarray, divisor: float, mean: float, std: float) -> None:
    # The quotient of integers is rounded once, so quantizing the input with the scale 1/divisor and zero point 0 is
    # lossless.
    values /= np.float32(divisor)
    if mean != 0:
        values -= np.float32(mean)
    if std != 1:
        values /= np.float32(std)


def _nearest(pixels: np.ndarray, where: Geometry) -> np.ndarray:
    """Resizes as OpenCV's ``INTER_NEAREST``."""
    columns, rows = (
        np.minimum(((np.arange(size) + skipped) * step).astype(np.int64), length - 1)
        for size, skipped, step, length in zip(where.size, where.skipped, where.step, where.image, strict=True)
    )
    return pixels.take(rows, axis=0).take(columns, axis=1)


def _bilinear(pixels: np.ndarray, where: Geometry) -> np.ndarray:
    """Resizes as OpenCV's ``INTER_LINEAR``, without antialiasing."""
    (width, height), (step_x, step_y), (last_x, last_y) = where.size, where.step, (side - 1 for side in where.image)
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    columns, distances = _neighbors(np.arange(width) + where.skipped[0], step_x)
    # Outside the outermost columns OpenCV takes the column alone, outside the outermost rows it weights the row twice.
    distances[(columns < 0) | (columns >= last_x)] = 0
    across = np.repeat(_weights(distances), channels, axis=1)
    both = np.clip([columns, columns + 1], 0, last_x)
    left, right = (both[..., None] * channels + np.arange(channels)).reshape(2, -1)
    rows, distances = _neighbors(np.arange(height) + where.skipped[1], step_y)
    down = _weights(distances)[..., None]
    sources = np.clip([rows, rows + 1], 0, last_y)

    resized = np.empty((height, width * channels), np.uint8)
    for start in range(0, height, _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        total = np.full((), 2, np.int32)
        for source, weight in zip(sources[:, block], down[:, block], strict=True):
            lines = pixels[source].reshape(len(source), -1)
            between = lines.take(left, axis=1) * across[0]
            between += lines.take(right, axis=1) * across[1]
            between >>= 4
            between *= weight
            between >>= 16
            between += total
            total = between
        total >>= 2
        resized[block] = total
    return resized.reshape(height, width, *pixels.shape[2:])


def _neighbors(indices: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first neighbor of each resized pixel along an axis, and the float32 distance from it."""
    positions = ((indices + 0.5) * step - 0.5).astype(np.float32)
    first = np.floor(positions)
    return first.astype(np.int64), positions - first


def _weights(distances: np.ndarray) -> np.ndarray:
    return np.rint(np.stack([1 - distances, distances]) * np.float32(_LINEAR_ONE)).astype(np.int32)


@functools.cache
def _opencv() -> Resize | None:
    """Returns OpenCV's resizing if it is installed and its results are those of `_bilinear` and `_nearest`."""
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError:  # not installed, or its libraries are missing: numpy computes the same, more slowly
        return None
    flags = {"bilinear": cv2.INTER_LINEAR, "nearest": cv2.INTER_NEAREST}

    def resize(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
        resized: np.ndarray = cv2.resize(pixels, size, interpolation=flags[interpolation])
        return resized

    # Some builds leave resizing to another library, which rounds differently.
    pixels = (np.arange(31 * 37 * 3) * 7919 % 251).astype(np.uint8).reshape(31, 37, 3)
    for size in ((17, 12), (52, 71)):
        where = Geometry((37, 31), size, resized=size, size=size)
        for interpolation, own in (("bilinear", _bilinear), ("nearest", _nearest)):
            if not np.array_equal(resize(pixels, size, interpolation), own(pixels, where)):
                return None
    return resize
