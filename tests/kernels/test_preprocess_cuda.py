"""preprocess.cu, run on the CPU with the stand-in header, against the reference; compiled for every architecture."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from fake_cuda import FakeDriver
from hypothesis import given, settings
from hypothesis import strategies as st

import edgekit
from edgekit.device.cuda.resources import Context
from edgekit.kernels.preprocess import device, geometry, reference
from edgekit.kernels.preprocess.device import PARAMETERS, DevicePreprocess, Frame
from edgekit.recipe.schema import Preprocess

SOURCE = Path(edgekit.__file__).parent / "kernels" / "preprocess" / "preprocess.cu"

WAYS: dict[str, dict[str, Any]] = {
    "nearest": {"interpolation": "nearest"},
    "bilinear": {"antialias": False},
    "antialiased": {},
}


class OnCpu:
    """The kernels of preprocess.cu as a function of RGB images, or of frames."""

    def __init__(self, library: str | Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.preprocess_half.restype = ctypes.c_ushort
        self.library.preprocess_half.argtypes = [ctypes.c_float]
        self.library.preprocess_fields.restype = ctypes.POINTER(Field)

    def __call__(
        self,
        images: Sequence[np.ndarray | Frame],
        how: Preprocess,
        size: tuple[int, int],
        *,
        dtype: Any = np.float32,
        seed: int = 0,
    ) -> np.ndarray:
        frames = [frame_of(image) if isinstance(image, np.ndarray) else image for image in images]
        width, height = size
        with Context(FakeDriver()) as context:
            options = {"height": height, "width": width, "dtype": np.dtype(dtype), "images": len(frames)}
            with DevicePreprocess(context, how, **options) as kernel:
                records = np.array([kernel.record(frame) for frame in frames], PARAMETERS)
        shape = (how.channels, height, width) if how.layout == "nchw" else (height, width, how.channels)
        output = np.full((len(frames), *shape), np.nan, dtype)
        interpolation = how.interpolation if how.interpolation == "nearest" or not how.antialias else "antialiased"
        pointers = (ctypes.c_void_p(array.ctypes.data) for array in (records, output))
        self.library.preprocess_batch(interpolation.encode(), *pointers, len(frames), seed)
        return output


class Field(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("offset", ctypes.c_size_t)]


def frame_of(image: np.ndarray, format: Any = "rgb") -> Frame:
    return Frame(image.ctypes.data, image.strides[0], image.shape[1], image.shape[0], format)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    random = np.random.default_rng((height, width, channels))
    return random.integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.fixture(scope="session")
def kernels(on_cpu: Callable[..., Path]) -> OnCpu:
    return OnCpu(on_cpu("preprocess"))


def check(kernels: OnCpu, image: np.ndarray, how: Preprocess, size: tuple[int, int], **options: Any) -> None:
    expected = reference.preprocess(image, how, size)
    np.testing.assert_array_equal(kernels([image], how, size, **options)[0], expected)


def test_a_record_has_the_layout_of_the_kernel_s_struct(kernels: OnCpu) -> None:
    count, size = ctypes.c_int(), ctypes.c_size_t()
    fields = kernels.library.preprocess_fields(ctypes.byref(count), ctypes.byref(size))
    found = {fields[i].name.decode(): fields[i].offset for i in range(count.value)}
    assert PARAMETERS.fields is not None
    assert found == {name: entry[1] for name, entry in PARAMETERS.fields.items()}
    assert size.value == PARAMETERS.itemsize


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("resize", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("sizes", [(60, 80), (31, 17), (200, 45), (5, 900)])
def test_the_kernels_compute_what_the_reference_computes(
    kernels: OnCpu, way: str, resize: Any, sizes: tuple[int, int]
) -> None:
    how = Preprocess(resize=resize, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), **WAYS[way])
    check(kernels, noise(*sizes), how, (37, 41))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("color", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_colors_and_layouts(kernels: OnCpu, way: str, color: Any, layout: Any) -> None:
    numbers: dict[str, Any] = {"mean": (0.4,), "std": (0.3,)} if color == "gray" else {"mean": (0.4, 0.5, 0.6)}
    how = Preprocess(resize="letterbox", color=color, layout=layout, pad=114, **numbers, **WAYS[way])
    check(kernels, noise(40, 70), how, (33, 21))


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(*[st.integers(1, 300)] * 2),
    st.tuples(*[st.integers(1, 40)] * 2),
    st.sampled_from(list(WAYS)),
    st.sampled_from(["letterbox", "stretch", "crop"]),
    st.integers(0, 2**31),
)
def test_any_sizes_in_any_order_of_threads(
    kernels: OnCpu, sizes: tuple[int, int], size: tuple[int, int], way: str, resize: Any, seed: int
) -> None:
    check(kernels, noise(*sizes), Preprocess(resize=resize, **WAYS[way]), size, seed=seed)


@pytest.mark.parametrize("way", WAYS)
def test_the_order_of_threads_changes_nothing(kernels: OnCpu, way: str) -> None:
    how = Preprocess(resize="letterbox", **WAYS[way])
    found = {kernels([noise(150, 90)], how, (70, 30), seed=seed).tobytes() for seed in range(6)}
    assert len(found) == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sizes", [(1, 1), (1, 50), (50, 1), (3, 7680), (4320, 2)])
def test_images_of_one_pixel_and_of_8k(kernels: OnCpu, way: str, sizes: tuple[int, int]) -> None:
    for resize in ("letterbox", "stretch"):
        check(kernels, noise(*sizes), Preprocess(resize=resize, **WAYS[way]), (40, 24))


@pytest.mark.parametrize("shrinks", [5.9, 6.0, 6.1, 8.9, 9.0, 12.3, 37.0])
def test_blocks_are_averaged_first_if_an_image_shrinks_far(kernels: OnCpu, shrinks: float) -> None:
    # At 6 px of the image per px, a triangle is as wide as the kernel's arrays allow.
    size = (33, 9)
    image = noise(round(9 * shrinks), round(33 * shrinks))
    for resize in ("stretch", "crop"):
        check(kernels, image, Preprocess(resize=resize), size)


@pytest.mark.parametrize("version", ["12.3.0", "13.0.0"])
def test_the_axis_that_is_first_is_that_of_the_installed_pillow(
    kernels: OnCpu, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = noise(170, 40)
    steps = geometry.antialiasing(geometry.placement(Preprocess(), (40, 170), (45, 30)))
    assert steps.vertical_first == (int(PIL.__version__.split(".")[0]) >= 13)
    monkeypatch.setattr(PIL, "__version__", version)
    monkeypatch.setattr(geometry, "_MAY_START_VERTICALLY", version >= "13")
    device._template.cache_clear()
    check(kernels, image, Preprocess(), (45, 30))
    device._template.cache_clear()


def test_images_of_a_batch_have_their_own_sizes_and_formats(kernels: OnCpu) -> None:
    how = Preprocess(resize="letterbox")
    images = [noise(30, 40), noise(90, 20), noise(7, 7)]
    bgr = np.ascontiguousarray(images[1][..., ::-1])
    found = kernels([images[0], frame_of(bgr, "bgr"), images[2]], how, (32, 32))
    for image, batch in zip(images, found, strict=True):
        np.testing.assert_array_equal(batch, reference.preprocess(image, how, (32, 32)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_formats_of_frames_with_any_pitch(kernels: OnCpu, way: str, color: Any) -> None:
    numbers: dict[str, Any] = {"mean": (0.0,), "std": (1.0,)} if color == "gray" else {}
    how = Preprocess(resize="letterbox", color=color, **numbers, **WAYS[way])
    image, alpha = noise(27, 35), noise(27, 35, 1)
    for format, samples in {
        "rgb": image,
        "bgr": image[..., ::-1],
        "rgba": np.concatenate([image, alpha], axis=2),
        "bgra": np.concatenate([image[..., ::-1], alpha], axis=2),
        "gray": image[..., :1],
    }.items():
        rows = samples.reshape(27, -1)
        padded = np.full((27, rows.shape[1] + 7), 99, np.uint8)
        padded[:, : rows.shape[1]] = rows
        frame = Frame(padded.ctypes.data, padded.strides[0], 35, 27, format)  # type: ignore[arg-type]
        rgb = np.repeat(samples, 3, axis=2) if format == "gray" else image
        np.testing.assert_array_equal(kernels([frame], how, (30, 30))[0], reference.preprocess(rgb, how, (30, 30)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sizes", [(24, 36), (25, 37), (1, 1)])
def test_nv12_has_two_planes_and_any_sides(kernels: OnCpu, way: str, sizes: tuple[int, int]) -> None:
    height, width = sizes
    random = np.random.default_rng(0)
    luminance = random.integers(0, 256, (height, width + 3), dtype=np.uint8)
    chroma = random.integers(0, 256, ((height + 1) // 2, (width + 1) // 2 * 2 + 5), dtype=np.uint8)
    frame = Frame(
        luminance.ctypes.data, luminance.strides[0], width, height, "nv12", chroma.ctypes.data, chroma.strides[0]
    )
    pairs = chroma[:, : (width + 1) // 2 * 2].reshape(len(chroma), -1, 2)
    rgb = reference.rgb_from_nv12(luminance[:, :width], pairs)
    for how in (Preprocess(resize="letterbox", **WAYS[way]), Preprocess(color="gray", mean=(0.0,), std=(1.0,))):
        np.testing.assert_array_equal(kernels([frame], how, (20, 20))[0], reference.preprocess(rgb, how, (20, 20)))


def test_float16_is_rounded_once_from_float32(kernels: OnCpu) -> None:
    how = Preprocess(resize="letterbox", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    image = noise(50, 60)
    expected = reference.preprocess(image, how, (40, 40)).astype(np.float16)
    np.testing.assert_array_equal(kernels([image], how, (40, 40), dtype=np.float16)[0], expected)


def test_rounding_to_float16_is_ieee_754_s(kernels: OnCpu) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    values = halves[np.isfinite(halves)].astype(np.float32)
    between = (values[:-1] + values[1:]) / 2  # ties, mostly
    near = [np.nextafter(between, np.float32(side)) for side in (-np.inf, np.inf)]
    special = np.float32([65519.996, 65520, 1e30, np.inf, -np.inf, np.nan, 1e-30, 2.0**-25, 2.0**-24, -0.0])
    inputs = np.concatenate([np.concatenate([values, between, *near])[::3], special])
    with np.errstate(over="ignore"):
        expected = inputs.astype(np.float16)
    found = np.array([kernels.library.preprocess_half(value) for value in inputs.tolist()], np.uint16).view(np.float16)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(inputs))


def test_neither_addresses_nor_arithmetic_go_wrong(sanitized: Callable[[str, str], str]) -> None:
    printed = sanitized(
        "preprocess",
        "from test_preprocess_cuda import *\n"
        "kernels = OnCpu(library)\n"
        "for way in WAYS.values():\n"
        "    for resize in ('letterbox', 'stretch', 'crop'):\n"
        "        for sizes in ((1, 1), (300, 90), (3, 700)):\n"
        "            check(kernels, noise(*sizes), Preprocess(resize=resize, **way), (38, 18))\n"
        "print('equal')\n",
    )
    assert printed == "equal\n"


def test_no_kernel_spills_and_each_takes_what_is_recorded(
    architecture: int, check_resources: Callable[[Path, int], None]
) -> None:
    check_resources(SOURCE, architecture)
