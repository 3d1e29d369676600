"""Reference preprocessing, from the definitions: simple but slow, to test the CPU's version and the kernels against.

Sizes are ``(width, height)`` in px. Images are uint8, shape ``(H, W, C)``.
"""

from __future__ import annotations

import math

import numpy as np
import PIL

from edgekit.recipe.schema import Preprocess

__all__ = ["antialiased", "bilinear", "block_averages", "luma", "nearest", "preprocess", "rgb_from_nv12"]

# A box is (left, top, right, bottom) in px, and may have fractions.
Box = tuple[float, float, float, float]


def preprocess(image: np.ndarray, how: Preprocess, size: tuple[int, int]) -> np.ndarray:
    """Resizes, pads and normalizes an image.

    The steps in order: conversion to gray if wanted; resizing in 8 bits; padding; ``(pixel / divisor - mean) / std`` in
    float32, each step rounded.

    Args:
        image: RGB.
        how: all settings; a letterbox is Darknet's, a crop is torchvision's ``Resize`` and ``CenterCrop``.
        size: size of the input.

    Returns:
        float32, shape ``(C, H, W)`` or ``(H, W, C)``.
    """
    pixels = luma(image) if how.color == "gray" else image
    (width, height), (out_width, out_height) = (image.shape[1], image.shape[0]), size
    resized, left, top = size, 0, 0
    if how.resize == "letterbox":
        # The largest size of the same shape, each side rounded down.
        if out_width * height < out_height * width:
            resized = (out_width, max(1, height * out_width // width))
        else:
            resized = (max(1, width * out_height // height), out_height)
        left, top = (out_width - resized[0]) // 2, (out_height - resized[1]) // 2
    elif how.resize == "crop":
        # The short side has a given length, or is the smallest that covers the input.
        short = how.resize_to
        if short:
            resized = (short, short * height // width) if width <= height else (short * width // height, short)
        else:
            resized = (max(out_width, out_height * width // height), max(out_height, out_width * height // width))
        left, top = -round((resized[0] - out_width) / 2), -round((resized[1] - out_height) / 2)

    window = (max(0, -left), max(0, -top), min(resized[0], out_width - left), min(resized[1], out_height - top))
    if how.interpolation == "nearest":
        inner = nearest(pixels, resized, window)
    elif not how.antialias:
        inner = bilinear(pixels, resized, window)
    else:
        scale_x, scale_y = resized[0] / width, resized[1] / height
        box = (window[0] / scale_x, window[1] / scale_y, window[2] / scale_x, window[3] / scale_y)
        box = (box[0], box[1], min(box[2], width), min(box[3], height))
        inner = antialiased(pixels, (window[2] - window[0], window[3] - window[1]), box)

    whole = np.full((out_height, out_width, pixels.shape[2]), how.pad, np.uint8)
    x, y = max(0, left), max(0, top)
    whole[y : y + inner.shape[0], x : x + inner.shape[1]] = inner
    if how.color == "bgr":
        whole = whole[..., ::-1]
    values: np.ndarray = whole.astype(np.float32) / np.float32(how.divisor)
    values = (values - np.array(how.mean, np.float32)) / np.array(how.std, np.float32)
    return values.transpose(2, 0, 1) if how.layout == "nchw" else values


def luma(image: np.ndarray) -> np.ndarray:
    """Converts RGB to gray, shape ``(H, W, 1)``: ITU-R BT.601 luma with the 16-bit weights of Pillow's mode ``L``."""
    red, green, blue = (image[..., channel].astype(np.int64) for channel in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16).astype(np.uint8)[..., None]


def rgb_from_nv12(luminance: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """Converts NV12 to RGB: ITU-R BT.601, limited range, with the 20-bit weights of OpenCV's ``COLOR_YUV2RGB_NV12``.

    Args:
        luminance: the Y plane; uint8, shape ``(H, W)``.
        chroma: U and V of each 2 x 2 px; uint8, shape ``(ceil(H / 2), ceil(W / 2), 2)``.
    """
    height, width = luminance.shape
    image = np.empty((height, width, 3), np.uint8)
    for row in range(height):
        for column in range(width):
            y = 1220542 * max(0, int(luminance[row, column]) - 16)
            u, v = (int(value) - 128 for value in chroma[row // 2, column // 2])
            for channel, value in enumerate((1673527 * v, -409993 * u - 852492 * v, 2116026 * u)):
                image[row, column, channel] = min(max((y + value + (1 << 19)) >> 20, 0), 255)
    return image


def nearest(image: np.ndarray, size: tuple[int, int], window: tuple[int, int, int, int]) -> np.ndarray:
    """Resizes as OpenCV's ``INTER_NEAREST``: the px at the upper left corner of the resized px.

    Args:
        image: the image.
        size: size of the resized image.
        window: the part of the resized image to compute.
    """
    height, width, channels = image.shape
    left, top, right, bottom = window
    step_x, step_y = 1 / (size[0] / width), 1 / (size[1] / height)
    resized = np.empty((bottom - top, right - left, channels), np.uint8)
    for y in range(top, bottom):
        for x in range(left, right):
            source_x, source_y = min(math.floor(x * step_x), width - 1), min(math.floor(y * step_y), height - 1)
            resized[y - top, x - left] = image[source_y, source_x]
    return resized


def bilinear(image: np.ndarray, size: tuple[int, int], window: tuple[int, int, int, int]) -> np.ndarray:
    """Resizes as OpenCV's ``INTER_LINEAR`` for 8 bits: the four px around a point, with weights of 11 bits.

    Args:
        image: the image.
        size: size of the resized image.
        window: the part of the resized image to compute.
    """
    height, width, channels = image.shape
    left, top, right, bottom = window
    step_x, step_y = 1 / (size[0] / width), 1 / (size[1] / height)
    resized = np.empty((bottom - top, right - left, channels), np.uint8)
    for y in range(top, bottom):
        row, below = _position(y, step_y)
        for x in range(left, right):
            column, beside = _position(x, step_x)
            if column < 0:
                column, beside = 0, np.float32(0)
            if column >= width - 1:
                column, beside = width - 1, np.float32(0)
            total = np.zeros(channels, np.int64)
            for source, vertical in ((row, 1 - below), (row + 1, below)):
                line = image[min(max(source, 0), height - 1)].astype(np.int64)
                between = line[column] * _weight(1 - beside) + line[min(column + 1, width - 1)] * _weight(beside)
                total += ((between >> 4) * _weight(vertical)) >> 16
            resized[y - top, x - left] = (total + 2) >> 2
    return resized


def _position(index: int, step: float) -> tuple[int, np.float32]:
    position = np.float32((index + 0.5) * step - 0.5)
    return math.floor(position), position - np.float32(math.floor(position))


def _weight(value: np.float32) -> int:
    return round(float(value) * 2**11)  # ties to even, as cvRound


def antialiased(image: np.ndarray, size: tuple[int, int], box: Box) -> np.ndarray:
    """Resizes a part of an image as Pillow's ``Image.resize(size, BILINEAR, box, reducing_gap=3)``.

    A resized px is the mean of the px below a triangle, which is two resized px wide, or two px when enlarging. Each
    axis by itself, first the horizontal one, rounded to 8 bits; the weights have 22 bits. Where the image shrinks more
    than six-fold, blocks are averaged first. Pillow 13 starts with the vertical axis if the height loses more than
    twice as many px as the width.

    Args:
        image: the image.
        size: size of the result.
        box: the part of the image.
    """
    spans = [(box[0], box[2]), (box[1], box[3])]
    factors = [max(1, int((end - begin) / length / 3.0)) for length, (begin, end) in zip(size, spans, strict=True)]
    if max(factors) > 1:
        parts = []
        for axis, (begin, end) in enumerate(spans):
            margin = 0.5 * ((end - begin) / size[axis])
            first, last = max(0, int(begin - margin)), min(image.shape[1 - axis], math.ceil(end + margin))
            parts.append(slice(first, last))
            spans[axis] = ((begin - first) / factors[axis], (end - first) / factors[axis])
        image = block_averages(image[parts[1], parts[0]], (factors[0], factors[1]))
    axes = [(axis, size[axis], *spans[axis]) for axis in (0, 1)]
    lost_x, lost_y = image.shape[1] - size[0], image.shape[0] - size[1]
    if int(PIL.__version__.split(".")[0]) >= 13 and lost_y > max(0, 2 * lost_x):
        axes.reverse()
    for is_vertical, length, begin, end in axes:
        rows = image.transpose(1, 0, 2) if is_vertical else image
        rows = _triangles(rows, length, begin, end)
        image = rows.transpose(1, 0, 2) if is_vertical else rows
    return image


def block_averages(image: np.ndarray, factor: tuple[int, int]) -> np.ndarray:
    """Averages blocks of ``factor`` px as Pillow's ``Image.reduce``; blocks at the right and the bottom may be smaller.

    The sum is multiplied by the reciprocal of the number of px, in 32-bit integers.
    """
    height, width, channels = image.shape
    rows, columns = math.ceil(height / factor[1]), math.ceil(width / factor[0])
    averages = np.empty((rows, columns, channels), np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * factor[1], column * factor[0]
            block = image[top : top + factor[1], left : left + factor[0]].reshape(-1, channels)
            reciprocal = int(np.float32(2**32) / np.float32(256 * len(block)))
            averages[row, column] = ((block.sum(axis=0, dtype=np.int64) + len(block) // 2) * reciprocal) >> 24
    return averages


def _triangles(image: np.ndarray, length: int, begin: float, end: float) -> np.ndarray:
    """Resizes the part from ``begin`` to ``end`` of each row to ``length`` px."""
    width = image.shape[1]
    scale = float(np.float32(end) - np.float32(begin)) / length
    support = max(scale, 1.0)
    resized = np.empty((image.shape[0], length, image.shape[2]), np.uint8)
    for x in range(length):
        center = float(np.float32(begin)) + (x + 0.5) * scale
        first, last = max(0, int(center - support + 0.5)), min(width, int(center + support + 0.5))
        weights = [max(0.0, 1.0 - abs((column - center + 0.5) * (1.0 / support))) for column in range(first, last)]
        total = 0.0
        for weight in weights:  # `sum` compensates for rounding errors since Python 3.12
            total += weight
        fixed = np.array([int(0.5 + weight / total * 2**22) for weight in weights], np.int64)
        sums = np.tensordot(image[:, first:last].astype(np.int64), fixed, axes=([1], [0])) + 2**21
        resized[:, x] = np.clip(sums >> 22, 0, 255)
    return resized
