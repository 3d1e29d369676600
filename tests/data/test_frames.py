from __future__ import annotations

import numpy as np
import pytest

from edgekit.data.frames import frame_size, rgb_frame
from edgekit.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
GRAY = RGB[..., 0]
NV12 = np.random.default_rng(1).integers(0, 256, (9, 8), np.uint8)


@pytest.mark.parametrize(
    ("frame", "format", "code"),
    [
        (RGB, "bgr", "COLOR_BGR2RGB"),
        (np.dstack([RGB, GRAY]), "rgba", "COLOR_RGBA2RGB"),
        (np.dstack([RGB, GRAY]), "bgra", "COLOR_BGRA2RGB"),
        (GRAY, "gray", "COLOR_GRAY2RGB"),
        (GRAY[..., None], "gray", "COLOR_GRAY2RGB"),
        (NV12, "nv12", "COLOR_YUV2RGB_NV12"),
    ],
)
def test_a_frame_becomes_what_opencv_makes_of_it(frame: np.ndarray, format: str, code: str) -> None:
    cv2 = pytest.importorskip("cv2")
    expected = cv2.cvtColor(frame, getattr(cv2, code))
    np.testing.assert_array_equal(rgb_frame(frame, format), expected)  # type: ignore[arg-type]
    assert frame_size(frame.shape, "uint8", format) == (8, 6)  # type: ignore[arg-type]


def test_all_values_of_nv12_become_what_opencv_makes_of_them() -> None:
    cv2 = pytest.importorskip("cv2")
    for luma in range(0, 256, 5):
        chroma = np.stack(np.meshgrid(np.arange(256), np.arange(256)), axis=-1).astype(np.uint8).reshape(256, 512)
        frame = np.concatenate([np.full((512, 512), luma, np.uint8), chroma])
        np.testing.assert_array_equal(rgb_frame(frame, "nv12"), cv2.cvtColor(frame, cv2.COLOR_YUV2RGB_NV12))


def test_a_frame_in_rgb_is_not_copied() -> None:
    assert rgb_frame(RGB, "rgb") is RGB


@pytest.mark.parametrize(
    ("shape", "dtype", "format", "expected"),
    [
        ((6, 8), "uint8", "rgb", r"expected uint8 \(H, W, 3\) for 'rgb', got uint8 \(6, 8\)"),
        ((6, 8, 3), "float32", "rgb", r"got float32 \(6, 8, 3\)"),
        ((6, 8, 3), "uint8", "bgra", r"expected uint8 \(H, W, 4\)"),
        ((6, 8, 3), "uint8", "gray", r"expected uint8 \(H, W\) or \(H, W, 1\)"),
        ((10, 8), "uint8", "nv12", r"expected uint8 \(H \* 3 / 2, W\) with even H and W"),
        ((9, 7), "uint8", "nv12", "even H and W"),
        ((0, 8, 3), "uint8", "rgb", r"got uint8 \(0, 8, 3\)"),
        ((6, 8, 3), "uint8", "yuyv", "expected one of rgb, bgr, gray, nv12, rgba, bgra, got 'yuyv'"),
    ],
)
def test_an_array_that_is_not_of_the_format_is_refused(
    shape: tuple[int, ...], dtype: str, format: str, expected: str
) -> None:
    with pytest.raises(DataError, match=expected):
        frame_size(shape, dtype, format)  # type: ignore[arg-type]
