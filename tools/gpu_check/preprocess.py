"""Checks the preprocessing kernels on a GPU: the same values as the reference, and their time."""

from __future__ import annotations

import itertools
import statistics
from contextlib import ExitStack
from typing import Any

import numpy as np

from edgekit.device.cuda.choose import driver
from edgekit.device.cuda.resources import Context, DeviceMemory, HostMemory, Stream
from edgekit.kernels.preprocess import reference
from edgekit.kernels.preprocess.device import PARAMETERS, DevicePreprocess, Format, Frame
from edgekit.recipe.schema import Preprocess
from tools.gpu_check.timing import times_of_graph_ms

# A camera's frame, and the input of a YOLO detector.
FRAME, SIZE = (1920, 1080), (640, 640)
BATCHES = (1, 8)
WARMUP, REPEATS = 20, 200
FORMATS: tuple[Format, ...] = ("rgb", "nv12")
TYPES = (np.dtype(np.float32), np.dtype(np.float16))
WAYS: dict[str, dict[str, Any]] = {
    "nearest": {"interpolation": "nearest"},
    "bilinear": {"antialias": False},
    "antialiased": {},
}
NORMALIZED: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

# Values are compared at other sizes, because the reference needs minutes for a camera's frame: enlarged, shrunk, and
# shrunk so far that blocks are averaged.
CHECKED_FRAMES, CHECKED_SIZE = ((35, 51), (161, 91), (431, 320)), (64, 48)
CHECKED: tuple[dict[str, Any], ...] = (
    {"resize": "letterbox", **NORMALIZED},
    {"resize": "stretch", "color": "bgr", "layout": "nhwc", **NORMALIZED},
    {"resize": "crop", "color": "gray", "mean": (0.5,), "std": (0.25,)},
)


def check_preprocess(
    *,
    frame: tuple[int, int] = FRAME,
    size: tuple[int, int] = SIZE,
    batches: tuple[int, ...] = BATCHES,
    warmup: int = WARMUP,
    repeats: int = REPEATS,
) -> dict[str, Any]:
    """Preprocesses random frames; returns what is not exact, and the median time of one launch of a graph."""
    found: dict[str, Any] = {"frame": list(frame), "size": list(size), "cases": [], "problems": []}
    with Context(driver()) as context:
        for format in FORMATS:
            found["problems"] += _problems(context, format)
            planes = [random_frame(format, frame, seed) for seed in range(max(batches))]
            for (way, fields), dtype, images in itertools.product(WAYS.items(), TYPES, batches):
                how = Preprocess(resize="letterbox", **NORMALIZED, **fields)
                _, times_ms = _measured(context, how, dtype, size, planes[:images], format, warmup, repeats)
                case = {"interpolation": way, "format": format, "dtype": str(dtype), "images": images}
                found["cases"].append({**case, "median_us": 1000 * statistics.median(times_ms)})
    return found


def random_frame(format: Format, size: tuple[int, int], seed: int) -> list[np.ndarray]:
    """Returns the planes of a frame, uint8, with one row of bytes per row."""
    random = np.random.default_rng(seed)
    width, height = size
    shapes = [(height, 3 * width)] if format == "rgb" else [(height, width), ((height + 1) // 2, (width + 1) // 2 * 2)]
    return [random.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]


def _problems(context: Context, format: Format) -> list[str]:
    """Compares a batch of frames of different sizes with the reference."""
    planes = [random_frame(format, size, seed) for seed, size in enumerate(CHECKED_FRAMES)]
    if format == "nv12":
        images = [reference.rgb_from_nv12(first, second.reshape(len(second), -1, 2)) for first, second in planes]
    else:
        images = [first.reshape(len(first), -1, 3) for (first,) in planes]
    problems = []
    for (way, fields), checked in itertools.product(WAYS.items(), CHECKED):
        how = Preprocess(**checked, **fields)
        expected = np.stack([reference.preprocess(image, how, CHECKED_SIZE) for image in images])
        for dtype in TYPES:
            values, _ = _measured(context, how, dtype, CHECKED_SIZE, planes, format, 0, 1)
            wrong = np.count_nonzero(values != expected.astype(dtype))
            if wrong:
                problems.append(
                    f"{way}, {how.resize}, {how.color}, {format}, {dtype}: expected the values of the reference, got "
                    f"{wrong} others of {values.size}"
                )
    return problems


def _measured(
    context: Context,
    how: Preprocess,
    dtype: np.dtype,
    size: tuple[int, int],
    planes: list[list[np.ndarray]],
    format: Format,
    warmup: int,
    repeats: int,
) -> tuple[np.ndarray, list[float]]:
    """Returns the input that the kernel writes, and the time of each launch as a graph."""
    images, (width, height) = len(planes), size
    shape = (height, width, how.channels) if how.layout == "nhwc" else (how.channels, height, width)
    with ExitStack() as stack:
        stream = stack.enter_context(Stream(context))
        kernel = stack.enter_context(
            DevicePreprocess(context, how, height=height, width=width, dtype=dtype, images=images)
        )

        def uploaded(array: np.ndarray) -> int:
            host = stack.enter_context(HostMemory(context, array.nbytes))
            device = stack.enter_context(DeviceMemory(context, array.nbytes))
            host.array[:] = np.frombuffer(array.tobytes(), np.uint8)
            stream.copy_to_device(device.address, host.array)
            return device.address

        with context.current():
            records = np.empty(images, PARAMETERS)
            for index, (first, *second) in enumerate(planes):
                rows, pitch = first.shape
                chroma = (uploaded(second[0]), second[0].shape[1]) if second else (0, 0)
                frame_width = pitch if format == "nv12" else pitch // 3
                records[index] = kernel.record(Frame(uploaded(first), pitch, frame_width, rows, format, *chroma))
            parameters = uploaded(records)
            size_bytes = images * int(np.prod(shape)) * dtype.itemsize
            output = stack.enter_context(DeviceMemory(context, size_bytes))
            result = stack.enter_context(HostMemory(context, size_bytes))

            def launch() -> None:
                kernel.launch(stream, parameters=parameters, output=output.address, images=images)

            times_ms = times_of_graph_ms(context, stream, launch, warmup=warmup, repeats=repeats)
            stream.copy_to_host(result.array, output.address)
            stream.synchronize()
            values: np.ndarray = result.array[:].view(dtype).reshape(images, *shape).copy()
    return values, times_ms
