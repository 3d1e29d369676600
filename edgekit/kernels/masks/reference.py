"""Reference of masks, one pixel at a time in float64: simple but slow, to test `masks` against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["mask_sum"]

Plane = Callable[[int, int], float]


def mask_sum(
    prototypes: np.ndarray,
    coefficients: np.ndarray,
    pixel: tuple[int, int],
    *,
    factor: int,
    content: tuple[int, int, int, int],
    size: tuple[int, int],
) -> float:
    """Computes the sum of prototypes whose sign is the mask at one pixel of the image.

    The sum of the prototypes is upsampled by a factor, the rectangle that the image fills is cut out, and this is
    resized to the image; both bilinearly. Pixels have their centers at 0.5, and the value at an edge is repeated.

    Args:
        prototypes: shape ``(C, h, w)``.
        coefficients: one per prototype, shape ``(C,)``.
        pixel: column and row in the image.
        factor: the upsampling before the cut.
        content: left, top, right, bottom of the rectangle in px of the upsampled prototypes.
        size: width and height of the image in px.
    """
    planes = prototypes.astype(np.float64)
    _, height, width = planes.shape

    def total(x: int, y: int) -> float:
        return sum(float(c) * float(plane[y, x]) for c, plane in zip(coefficients, planes, strict=True))

    left, top, right, bottom = content

    def upsampled(x: int, y: int) -> float:
        return _bilinear(total, (x + left + 0.5) / factor - 0.5, (y + top + 0.5) / factor - 0.5, width, height)

    inner = (right - left, bottom - top)
    x, y = ((place + 0.5) * own / whole - 0.5 for place, own, whole in zip(pixel, inner, size, strict=True))
    return _bilinear(upsampled, x, y, *inner)


def _bilinear(plane: Plane, x: float, y: float, width: int, height: int) -> float:
    x, y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
    column, row = int(x), int(y)
    right, below = min(column + 1, width - 1), min(row + 1, height - 1)
    u, v = x - column, y - row
    upper = (1 - u) * plane(column, row) + u * plane(right, row)
    lower = (1 - u) * plane(column, below) + u * plane(right, below)
    return (1 - v) * upper + v * lower
