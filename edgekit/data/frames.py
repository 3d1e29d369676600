"""Frames as cameras and video decoders give them: 8-bit arrays in several pixel formats."""

from __future__ import annotations

from typing import get_args

import numpy as np

from edgekit.errors import DataError
from edgekit.kernels.preprocess.device import Format

__all__ = ["Format", "frame_size", "rgb_frame"]

_CHANNELS = {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4}

# ITU-R BT.601, limited range, in 20-bit fixed point, with OpenCV's constants (imgproc, color_yuv).
_SHIFT = 20
_LUMA, _RED_V, _GREEN_V, _GREEN_U, _BLUE_U = 1220542, 1673527, -852492, -409993, 2116026


def frame_size(shape: tuple[int, ...], dtype: str, format: Format) -> tuple[int, int]:
    """Returns width and height in px of a frame.

    Args:
        shape: shape of its array: ``(H, W, 3)`` for ``rgb`` and ``bgr``, ``(H, W, 4)`` for ``rgba`` and ``bgra``,
            ``(H, W)`` or ``(H, W, 1)`` for ``gray``, ``(H * 3 / 2, W)`` for ``nv12``: the plane of luma above that of
            U and V.
        dtype: name of its element type.
        format: the pixel format.

    Raises:
        DataError: the array is not of this format.
    """
    if not isinstance(format, str) or format not in get_args(Format):
        raise DataError(f"format: expected one of {', '.join(get_args(Format))}, got {str(format)[:40]!r}")
    expected, size = _expected(shape, format)
    if dtype != "uint8" or size is None or 0 in size:
        raise DataError(
            f"frame: expected uint8 {expected} for '{format}', got {dtype} {shape}",
            hint="give format= if the frame is in another pixel format: " + ", ".join(get_args(Format)),
        )
    return size


def rgb_frame(frame: np.ndarray, format: Format) -> np.ndarray:
    """Converts a frame to RGB, uint8 ``(H, W, 3)``; one in RGB is returned as is, and alpha is dropped.

    Raises:
        DataError: as `frame_size`.
    """
    width, height = frame_size(frame.shape, frame.dtype.name, format)
    if format == "rgb":
        return frame
    if format == "gray":
        return np.repeat(frame.reshape(height, width, 1), 3, axis=2)
    if format == "nv12":
        return _rgb_from_nv12(frame, width, height)
    return np.ascontiguousarray(frame[..., :3] if format == "rgba" else frame[..., 2::-1])


def _expected(shape: tuple[int, ...], format: Format) -> tuple[str, tuple[int, int] | None]:
    if format == "gray":
        fits = len(shape) == 2 or (len(shape) == 3 and shape[2] == 1)
        return "(H, W) or (H, W, 1)", (shape[1], shape[0]) if fits else None
    if format == "nv12":
        fits = len(shape) == 2 and shape[0] % 3 == 0 and shape[1] % 2 == 0
        return "(H * 3 / 2, W) with even H and W", (shape[1], shape[0] // 3 * 2) if fits else None
    channels = _CHANNELS[format]
    fits = len(shape) == 3 and shape[2] == channels
    return f"(H, W, {channels})", (shape[1], shape[0]) if fits else None


def _rgb_from_nv12(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    luma = np.maximum(frame[:height].astype(np.int32) - 16, 0) * _LUMA
    u, v = (frame[height:, first::2].astype(np.int32) - 128 for first in (0, 1))
    half = 1 << (_SHIFT - 1)
    rgb = np.empty((height, width, 3), np.uint8)
    chroma = (half + _RED_V * v, half + _GREEN_V * v + _GREEN_U * u, half + _BLUE_U * u)
    for channel, plane in enumerate(chroma):
        full = plane.repeat(2, axis=0).repeat(2, axis=1)
        full += luma
        np.clip(full >> _SHIFT, 0, 255, out=rgb[..., channel], casting="unsafe")
    return rgb
