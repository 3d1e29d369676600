"""The reference against OpenCV and Pillow; the CPU's version against the reference."""

from __future__ import annotations

import types
from typing import Any

import cv2
import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgekit.data.images import preprocess
from edgekit.kernels.preprocess import reference, resample
from edgekit.kernels.preprocess.geometry import placement
from edgekit.recipe.schema import Preprocess

sides = st.integers(1, 60)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    random = np.random.default_rng((height, width, channels))
    return random.integers(0, 256, (height, width, channels), dtype=np.uint8)


def settings_of(draw: Any, side: int) -> Preprocess:
    """Any settings that fit an input of at most ``side`` px."""
    color = draw(st.sampled_from(["rgb", "bgr", "gray"]))
    channels = 1 if color == "gray" else 3
    numbers = st.lists(st.floats(0.0625, 2, width=32), min_size=channels, max_size=channels).map(tuple)
    return Preprocess(
        resize=draw(st.sampled_from(["letterbox", "stretch", "crop"])),
        resize_to=draw(st.sampled_from([0, side, side + 5])),
        interpolation=draw(st.sampled_from(["bilinear", "bilinear", "nearest"])),
        antialias=draw(st.booleans()),
        color=color,
        layout=draw(st.sampled_from(["nchw", "nhwc"])),
        pad=draw(st.integers(0, 255)),
        divisor=draw(st.sampled_from([1.0, 127.5, 255.0])),
        mean=draw(numbers),
        std=draw(numbers),
    )


any_settings = st.composite(settings_of)


@settings(deadline=None, max_examples=60)
@given(sides, sides, sides, sides, st.sampled_from([1, 3]))
def test_nearest_and_bilinear_are_opencv_s(height: int, width: int, new_height: int, new_width: int, channels: int):
    image, size = noise(height, width, channels), (new_width, new_height)
    for flag, function in ((cv2.INTER_NEAREST, reference.nearest), (cv2.INTER_LINEAR, reference.bilinear)):
        expected = cv2.resize(image, size, interpolation=flag).reshape(new_height, new_width, channels)
        np.testing.assert_array_equal(function(image, size, (0, 0, *size)), expected)


@pytest.mark.parametrize("function", [reference.nearest, reference.bilinear])
def test_a_window_is_a_part_of_the_whole(function: Any) -> None:
    image = noise(23, 31)
    whole = function(image, (40, 19), (0, 0, 40, 19))
    np.testing.assert_array_equal(function(image, (40, 19), (5, 3, 33, 17)), whole[3:17, 5:33])


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 40), st.integers(1, 40), st.data())
def test_antialiasing_is_pillow_s(height: int, width: int, new_height: int, new_width: int, data: st.DataObject):
    image = noise(height, width)
    left, top = data.draw(st.floats(0, width - 0.5)), data.draw(st.floats(0, height - 0.5))
    right, bottom = data.draw(st.floats(left + 0.25, width)), data.draw(st.floats(top + 0.25, height))
    for box in ((0.0, 0.0, float(width), float(height)), (left, top, right, bottom)):
        expected = Image.fromarray(image).resize(
            (new_width, new_height), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0
        )
        np.testing.assert_array_equal(reference.antialiased(image, (new_width, new_height), box), np.asarray(expected))


@settings(deadline=None, max_examples=40)
@given(sides, sides, st.integers(1, 70), st.integers(1, 70))
def test_averages_of_blocks_are_pillow_s(height: int, width: int, factor_x: int, factor_y: int) -> None:
    image = noise(height, width)
    expected = Image.fromarray(image).reduce((factor_x, factor_y))
    np.testing.assert_array_equal(reference.block_averages(image, (factor_x, factor_y)), np.asarray(expected))


def test_gray_is_pillow_s() -> None:
    colors = np.stack(np.meshgrid(*[np.arange(0, 256, 3, dtype=np.uint8)] * 3), axis=-1).reshape(-1, 86, 3)
    np.testing.assert_array_equal(reference.luma(colors)[..., 0], np.asarray(Image.fromarray(colors).convert("L")))


def test_nv12_is_converted_as_by_opencv() -> None:
    random = np.random.default_rng(0)
    luminance = random.integers(0, 256, (40, 60), dtype=np.uint8)
    chroma = random.integers(0, 256, (20, 30, 2), dtype=np.uint8)
    expected = cv2.cvtColorTwoPlane(luminance, chroma, cv2.COLOR_YUV2RGB_NV12)
    np.testing.assert_array_equal(reference.rgb_from_nv12(luminance, chroma), expected)


@pytest.mark.parametrize("has_opencv", [True, False])
@settings(deadline=None, max_examples=60)
@given(height=st.integers(1, 200), width=st.integers(1, 200), out_height=sides, out_width=sides, data=st.data())
def test_the_cpu_computes_what_the_reference_computes(
    has_opencv: bool, height: int, width: int, out_height: int, out_width: int, data: st.DataObject
) -> None:
    image, how = noise(height, width), data.draw(any_settings(max(out_height, out_width)))
    expected = reference.preprocess(image, how, (out_width, out_height))
    with pytest.MonkeyPatch.context() as patch:
        if not has_opencv:
            patch.setattr(resample, "_opencv", lambda: None)
        batch, _ = preprocess(image, how, (1, *expected.shape))
    np.testing.assert_array_equal(batch[0], expected)


def test_opencv_is_used_where_it_is_installed_and_its_numbers_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    resample._opencv.cache_clear()
    assert resample._opencv() is not None

    def rounding_differently(pixels: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
        return cv2.resize(pixels, size, interpolation=interpolation) ^ np.uint8(1)

    other = types.SimpleNamespace(INTER_LINEAR=cv2.INTER_LINEAR, INTER_NEAREST=0, resize=rounding_differently)
    for module in (other, None):
        monkeypatch.setitem(__import__("sys").modules, "cv2", module)
        resample._opencv.cache_clear()
        assert resample._opencv() is None
    monkeypatch.undo()
    resample._opencv.cache_clear()


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_an_image_that_is_a_line_is_cropped_without_being_resized_whole(interpolation: Any) -> None:
    how = Preprocess(resize="crop", interpolation=interpolation, antialias=False)
    image = noise(1, 50_000)
    where = placement(how, (50_000, 1), (96, 96))
    assert where.resized == (4_800_000, 96)
    batch, _ = preprocess(image, how, (1, 3, 96, 96))
    np.testing.assert_array_equal(batch[0], reference.preprocess(image, how, (96, 96)))


def test_the_reference_follows_the_version_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(90, 30)
    first = {}
    for version in ("12.3.0", "13.0.0"):
        monkeypatch.setattr(PIL, "__version__", version)
        first[version] = reference.antialiased(image, (20, 17), (0, 0, 30, 90))
    assert (first["12.3.0"] != first["13.0.0"]).any()
    assert np.abs(first["12.3.0"].astype(int) - first["13.0.0"]).max() == 1
