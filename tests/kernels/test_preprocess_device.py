"""`DevicePreprocess` through the recording driver, which runs preprocess.cu on the CPU: frames in, inputs out."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeDriver

from edgekit.data.images import preprocess
from edgekit.device.cuda.resources import Context, DeviceMemory, Graph, HostMemory, Stream
from edgekit.errors import RecipeError, UsageError
from edgekit.kernels.preprocess.device import PARAMETERS, DevicePreprocess, Frame
from edgekit.recipe.schema import Preprocess
from tests.kernels.failing_calls import calls_that_fail_and_leak_nothing
from tools.gpu_check import preprocess as gpu_check

HOW = Preprocess(resize="letterbox", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
WIDTH, HEIGHT, IMAGES = 48, 32, 2
OPTIONS: dict[str, Any] = {"height": HEIGHT, "width": WIDTH, "dtype": np.dtype(np.float32), "images": IMAGES}


@pytest.fixture
def driver(on_cpu: Callable[..., Path]) -> Iterator[FakeDriver]:
    driver = FakeDriver(kernels=ctypes.CDLL(str(on_cpu("preprocess"))))
    yield driver
    assert not driver.leaks()


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng((height, width)).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_captured_launch_is_replayed_for_frames_at_other_addresses_and_of_other_sizes(driver: FakeDriver) -> None:
    images = [noise(40, 90), noise(100, 30), noise(HEIGHT, WIDTH), noise(1, 1), noise(300, 400), noise(64, 64)]
    output_bytes = IMAGES * 3 * HEIGHT * WIDTH * 4
    with ExitStack() as stack:
        context = stack.enter_context(Context(driver))
        stream = stack.enter_context(Stream(context))
        kernel = stack.enter_context(DevicePreprocess(context, HOW, **OPTIONS))
        host, device = {}, {}
        for name, size in {"parameters": IMAGES * PARAMETERS.itemsize, "output": output_bytes}.items():
            host[name] = stack.enter_context(HostMemory(context, size))
            device[name] = stack.enter_context(DeviceMemory(context, size))
        pinned = [stack.enter_context(HostMemory(context, image.nbytes)) for image in images]
        frames = [stack.enter_context(DeviceMemory(context, image.nbytes)) for image in images]

        def submit() -> None:
            stream.copy_to_device(device["parameters"].address, host["parameters"].array)
            addresses = {name: memory.address for name, memory in device.items()}
            kernel.launch(stream, **addresses, images=IMAGES)
            stream.copy_to_host(host["output"].array, device["output"].address)

        with context.current():
            graph = stack.enter_context(Graph(context, stream, submit))
            assert driver.trace == []  # captured, not run
            for image, memory, frame in zip(images, pinned, frames, strict=True):
                memory.array[:] = image.reshape(-1)
                stream.copy_to_device(frame.address, memory.array)
            stream.synchronize()
            for first in range(0, len(images), IMAGES):
                batch = range(first, first + IMAGES)
                records = [
                    kernel.record(
                        Frame(frames[i].address, images[i].strides[0], images[i].shape[1], images[i].shape[0])
                    )
                    for i in batch
                ]
                host["parameters"].array[:] = np.frombuffer(np.array(records, PARAMETERS).tobytes(), np.uint8)
                graph.launch(stream)
                stream.synchronize()
                found = host["output"].array[:].view(np.float32).reshape(IMAGES, 3, HEIGHT, WIDTH)
                for i, result in zip(batch, found, strict=True):
                    expected, _ = preprocess(images[i], HOW, (1, 3, HEIGHT, WIDTH))
                    np.testing.assert_array_equal(result, expected[0])
    replay = ["copy to device", "preprocess_antialiased", "copy to host"]
    assert driver.trace == ["copy to device"] * len(images) + 3 * replay


def test_the_check_for_gpus_finds_a_kernel_that_is_not_exact(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "driver", lambda: driver)
    few: dict[str, Any] = {"size": (20, 12), "frame": (64, 36), "batches": (1, 2), "warmup": 1, "repeats": 2}
    found = gpu_check.check_preprocess(**few)
    assert found.pop("problems") == []
    cases = {(case["interpolation"], case["format"], case["dtype"], case["images"]) for case in found["cases"]}
    assert len(cases) == len(found["cases"]) == 3 * 2 * 2 * 2
    assert {case["median_us"] for case in found["cases"]} == {2000}  # a tick of 1 ms for the kernel and each event
    assert (found["frame"], found["size"]) == ([64, 36], [20, 12])

    other = np.zeros((1, 1, 1), np.float32)
    monkeypatch.setattr(gpu_check.reference, "preprocess", lambda *arguments: other)
    monkeypatch.setattr(gpu_check, "FORMATS", ("rgb",))
    problems = gpu_check.check_preprocess(**few)["problems"]
    assert len(problems) == 3 * 3 * 2  # ways, settings, types
    assert problems[0].startswith(
        "nearest, letterbox, rgb, rgb, float32: expected the values of the reference, got 27648 others of 27648"
    )


def test_all_constants_are_those_of_the_kernel() -> None:
    source = Path(gpu_check.__file__).parents[2] / "edgekit" / "kernels" / "preprocess" / "preprocess.cu"
    text = source.read_text(encoding="utf-8")
    from edgekit.kernels.preprocess import device

    assert f"constexpr int COLUMNS = {device._COLUMNS};" in text and f"constexpr int ROWS = {device._ROWS};" in text
    (formats,) = re.findall(r"enum Format : int { (.*?) }", text)
    assert dict(entry.split(" = ") for entry in formats.split(", ")) == {
        name.upper(): str(number) for name, number in device._FORMATS.items()
    }


def test_everything_is_freed_whichever_call_fails() -> None:
    assert calls_that_fail_and_leak_nothing(lambda context: DevicePreprocess(context, HOW, **OPTIONS).close()) >= 6


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"height": 0}, "height: expected 1 to 65535, got 0"),
        ({"width": 65536}, "width: expected 1 to 65535, got 65536"),
        ({"images": 0}, "images: expected 1 to 65535, got 0"),
        ({"dtype": np.dtype(np.uint8)}, "dtype: expected float32 or float16, got uint8"),
    ],
)
def test_an_input_that_no_kernel_writes_is_refused(driver: FakeDriver, changed: Any, message: str) -> None:
    with Context(driver) as context, pytest.raises(UsageError, match=re.escape(message)):
        DevicePreprocess(context, HOW, **{**OPTIONS, **changed})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"address": 0}, "frame.address: expected the address of a plane of rgb, got 0"),
        ({"width": 0}, "frame.width: expected 1 to 32767 px, got 0"),
        ({"height": 1 << 15}, "frame.height: expected 1 to 32767 px, got 32768"),
        ({"pitch_bytes": 29}, "frame.pitch_bytes: expected at least 30 bytes for 10 px of rgb, got 29"),
        ({"format": "yuyv"}, "frame.format: expected one of rgb, bgr, gray, nv12, rgba, bgra, got 'yuyv'"),
        ({"format": "bgra"}, "frame.pitch_bytes: expected at least 40 bytes for 10 px of bgra, got 30"),
        ({"format": "nv12", "chroma_pitch_bytes": 10}, "frame.chroma_address: expected the address of a plane of nv12"),
        (
            {"format": "nv12", "chroma_address": 1, "chroma_pitch_bytes": 9},
            "frame.chroma_pitch_bytes: expected at least 10 bytes for 10 px of nv12, got 9",
        ),
    ],
)
def test_a_frame_that_cannot_be_is_refused(driver: FakeDriver, changed: Any, message: str) -> None:
    frame: dict[str, Any] = {"address": 4096, "pitch_bytes": 30, "width": 10, "height": 10, **changed}
    with Context(driver) as context, DevicePreprocess(context, HOW, **OPTIONS) as kernel:
        with pytest.raises(UsageError, match=re.escape(message)):
            kernel.record(Frame(**frame))


def test_a_crop_that_is_larger_than_the_resized_image_is_refused(driver: FakeDriver) -> None:
    how = Preprocess(resize="crop", resize_to=20)
    with Context(driver) as context, DevicePreprocess(context, how, **OPTIONS) as kernel:
        with pytest.raises(RecipeError, match="preprocess.resize_to: expected 0 or at least 48, .* got 20"):
            kernel.record(Frame(4096, 300, 100, 100))


@pytest.mark.parametrize("images", [0, 3])
def test_a_batch_of_another_size_is_refused_before_anything_is_launched(driver: FakeDriver, images: int) -> None:
    with Context(driver) as context, Stream(context) as stream, DevicePreprocess(context, HOW, **OPTIONS) as kernel:
        with context.current(), pytest.raises(UsageError, match=f"images: expected 1 to 2, got {images}"):
            kernel.launch(stream, parameters=8, output=8, images=images)
        assert "launch" not in driver.calls
