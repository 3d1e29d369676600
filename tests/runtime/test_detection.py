"""Detections of which every step runs on a fake GPU, whose kernels are those of the GPU, compiled for the CPU."""

from __future__ import annotations

import ctypes
import gc
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fake_cuda import FakeDriver, Work

from edgekit.device.cuda.arrays import DeviceArray
from edgekit.device.cuda.resources import Context, DeviceMemory, Stream
from edgekit.engine.bundle.manifest import Manifest
from edgekit.errors import DataError, RunError, UsageError
from edgekit.recipe.heads import End2End, Head, YoloV8, with_multi_label
from edgekit.recipe.schema import Postprocess, Preprocess
from edgekit.runtime.detections import Detections, RotatedDetections
from edgekit.runtime.session import Session
from edgekit.runtime.tasks.detect import TASK as DETECT
from edgekit.specs import TensorSpec

SIDE = 96
CELLS = 60
ARGUMENTS = {"score_threshold": 0.3}


class Kernels:
    """The kernels of several libraries."""

    def __init__(self, files: list[Path]) -> None:
        self._libraries = [ctypes.CDLL(str(file)) for file in files]

    def __getattr__(self, name: str) -> Any:
        return next(getattr(library, name) for library in self._libraries if hasattr(library, name))


def heads(images: np.ndarray, sizes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A detector: each cell's values are sums of its pixels with fixed random weights."""
    found = {}
    for name, (_, channels, rows, columns) in sizes.items():
        cells = (
            images.astype(np.float32).reshape(3, rows, SIDE // rows, columns, SIDE // columns).transpose(1, 3, 0, 2, 4)
        )
        weights = np.random.default_rng(channels + rows).normal(0, 1, (3, channels)).astype(np.float32)
        pooled = cells.reshape(rows, columns, 3, -1).mean(axis=3)
        values = 4 * (pooled - pooled.mean(axis=(0, 1))) @ weights
        values.reshape(rows, columns, 3, -1)[..., 2:4] /= 4
        found[name] = values.transpose(2, 0, 1)[None].astype(np.float32)
    return found


def rotated_boxes(images: np.ndarray, sizes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A detector of rotated boxes, YOLOv8 or end to end: random numbers, others for each input."""
    (shape,) = sizes.values()
    random = np.random.default_rng(zlib.crc32(images.astype(np.float32).tobytes()))
    rows = random.random((CELLS, min(shape[1:])))
    rows[:, :4] *= [SIDE, SIDE, 40, 20]
    rows[:, -1] = random.uniform(-np.pi / 4, 3 * np.pi / 4, CELLS)
    if shape[1] == CELLS:
        rows[:, 5] = random.integers(0, 2, CELLS)
    return {"o": np.float32(rows if shape[1] == CELLS else rows.T)[None]}


Model = Callable[[np.ndarray, dict[str, tuple[int, ...]]], dict[str, np.ndarray]]


class OnGpu:
    """An engine on the fake GPU; see `RunsOnDevice`."""

    def __init__(self, driver: FakeDriver, manifest: Manifest, model: Model = heads) -> None:
        self.inputs, self.outputs = manifest.inputs, manifest.outputs
        self.model = model
        self.notes: list[str] = []
        self.graphs_dropped = 0
        self.obstacle = ""
        self.on_cpu = 0  # runs with a copy of the inputs
        self.context = Context(driver)
        self.stream = Stream(self.context)

    def output_shapes(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        return {spec.name: tuple(map(int, spec.shape)) for spec in self.outputs}

    def enqueue(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        driver: Any = self.context.driver
        memory = {name: driver.memory_at(address) for name, address in addresses.items()}
        source, dtype = memory[self.inputs[0].name], np.dtype(self.inputs[0].dtype)

        def compute() -> None:
            count = 3 * SIDE * SIDE
            images = source.data[: count * dtype.itemsize].view(dtype).reshape(3, SIDE, SIDE)
            for name, values in self.model(images, self.output_shapes({})).items():
                data = values.astype(self.outputs[0].dtype)
                memory[name].data[: data.nbytes] = np.frombuffer(data.tobytes(), np.uint8)

        outputs = [memory[spec.name] for spec in self.outputs]
        driver.enqueue(self.stream.handle, Work("engine", [source], outputs, compute))

    def capture_obstacle(self) -> str:
        return self.obstacle

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.on_cpu += 1
        return OnCpu(self, self.model).run(feeds)

    def close(self) -> None:
        self.stream.close()
        self.context.close()


class OnCpu:
    notes = ()

    def __init__(self, manifest: Manifest | OnGpu, model: Model = heads) -> None:
        self.inputs, self.outputs = manifest.inputs, manifest.outputs
        self.model = model

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes = {spec.name: tuple(map(int, spec.shape)) for spec in self.outputs}
        (images,) = feeds.values()
        return {name: array.astype(self.outputs[0].dtype) for name, array in self.model(images, sizes).items()}

    def close(self) -> None:
        pass


def of_type(detector: Manifest, dtype: str = "float32") -> Manifest:
    assert detector.postprocess is not None
    return msgspec.structs.replace(
        detector,
        inputs=(TensorSpec("images", dtype, (1, 3, SIDE, SIDE)),),
        outputs=tuple(
            TensorSpec(head.output, dtype, (1, 255, SIDE // head.stride, SIDE // head.stride))
            for head in detector.postprocess.head.heads
        ),
    )


@pytest.fixture(scope="session")
def kernels(on_cpu: Callable[..., Path]) -> Kernels:
    return Kernels([on_cpu(name) for name in ("preprocess", "decode", "nms")])


@pytest.fixture
def manifest(detector: Manifest) -> Manifest:
    return of_type(detector)


@pytest.fixture(params=[False, True], ids=["discrete", "shared memory"])
def driver(request: pytest.FixtureRequest, kernels: Any) -> Iterator[FakeDriver]:
    driver = FakeDriver(kernels=kernels, integrated=request.param)
    yield driver
    gc.collect()
    assert not driver.leaks()


def image(seed: int, height: int = 61, width: int = 83) -> np.ndarray:
    """Rectangles on noise."""
    random = np.random.default_rng(seed)
    found = random.integers(0, 90, (height, width, 3), np.uint8)
    for _ in range(4):
        top, left = random.integers(0, height - 20), random.integers(0, width - 20)
        found[top : top + 25, left : left + 18] = random.integers(60, 256, 3)
    return found


def same(found: Detections, expected: Detections) -> None:
    assert len(expected) > 3
    np.testing.assert_array_equal(found.classes, expected.classes)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
    assert found.labels == expected.labels


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_frame_gives_the_detections_of_the_cpu(driver: FakeDriver, detector: Manifest, dtype: str) -> None:
    manifest = of_type(detector, dtype)
    engine = OnGpu(driver, manifest)
    with Session(engine, manifest) as session, Session(OnCpu(manifest), manifest) as on_cpu:
        for seed in range(3):
            same(session.detect(image(seed), **ARGUMENTS), on_cpu.detect(image(seed), **ARGUMENTS))
        assert session.notes == manifest.notes
    assert engine.on_cpu == 0
    assert "begin_capture" in driver.calls
    if driver.integrated:
        assert not {"copy_to_device", "copy_to_host"} & set(driver.calls)


@pytest.mark.parametrize(
    "head",
    [
        YoloV8(output="o", extras=1, angle=True, overlap="probiou", suppression="fast"),  # as recognized
        YoloV8(output="o", extras=1, angle=True),
        End2End(output="o", extras=1, angle=True),
    ],
    ids=["fast", "greedy", "end to end"],
)
def test_a_frame_gives_the_rotated_boxes_of_the_cpu(driver: FakeDriver, detector: Manifest, head: Head) -> None:
    manifest = msgspec.structs.replace(
        detector,
        task="obb",
        inputs=(TensorSpec("images", "float32", (1, 3, SIDE, SIDE)),),
        outputs=(TensorSpec("o", "float32", (1, 7, CELLS) if isinstance(head, YoloV8) else (1, CELLS, 7)),),
        preprocess=Preprocess(resize="letterbox", rounding="nearest", pad=114, antialias=False),
        postprocess=Postprocess(head=head, score_threshold=0.25, iou_threshold=0.4),
        labels=("plane", "ship"),
    )
    engine, on_cpu = OnGpu(driver, manifest, rotated_boxes), OnCpu(manifest, rotated_boxes)
    with Session(engine, manifest) as session, Session(on_cpu, manifest) as expecting:
        for seed in range(3):  # the letterbox of 61 x 83 px rounds one side up
            found, expected = (each.predict(image(seed), **ARGUMENTS) for each in (session, expecting))
            assert isinstance(found, RotatedDetections)
            same(found, expected)
            np.testing.assert_allclose(found.rotated, expected.rotated, rtol=1e-4, atol=1e-4)
        assert session.notes == manifest.notes
    assert engine.on_cpu == 0


def test_one_graph_serves_frames_of_all_sizes_and_thresholds(driver: FakeDriver, manifest: Manifest) -> None:
    with Session(OnGpu(driver, manifest), manifest) as session, Session(OnCpu(manifest), manifest) as on_cpu:
        for seed in range(6):
            frame = image(seed, 40 + 31 * seed, 130 - 17 * seed)
            options = {"score_threshold": 0.1 + 0.05 * seed, "iou_threshold": 0.3 + 0.1 * seed}
            same(session.detect(frame, **options), on_cpu.detect(frame, **options))
    assert driver.calls.count("begin_capture") <= 2  # one for each frame in flight


def test_a_replayed_frame_is_one_launch(driver: FakeDriver, manifest: Manifest) -> None:
    with Session(OnGpu(driver, manifest), manifest) as session:
        for seed in range(2):
            session.detect(image(seed))
        driver.calls.clear()
        session.detect(image(2))
        assert driver.calls.count("launch_graph") == 1 and "launch" not in driver.calls
        assert driver.calls.count("copy_to_device") == (0 if driver.integrated else 1)  # the frame
        assert not {"synchronize_stream", "allocate", "allocate_host"} & set(driver.calls)
        assert driver.calls.count("synchronize_event") == 1


def test_more_detections_than_before_are_returned_when_asked_for(driver: FakeDriver, manifest: Manifest) -> None:
    how = manifest.postprocess
    assert how is not None
    several = msgspec.structs.replace(how, head=with_multi_label(how.head, True))
    manifest = msgspec.structs.replace(manifest, postprocess=several)
    with Session(OnGpu(driver, manifest), manifest) as session, Session(OnCpu(manifest), manifest) as on_cpu:
        for limit in (3, 300, 1000, 2):
            options = {"score_threshold": 0.01, "iou_threshold": 1.0, "max_detections": limit}
            found, expected = session.detect(image(0), **options), on_cpu.detect(image(0), **options)
            assert len(found) == len(expected) > min(limit, 300) - 1
        assert len(session.detect(image(0), max_detections=0)) == 0


def test_a_stream_keeps_the_order_of_its_frames(driver: FakeDriver, manifest: Manifest) -> None:
    frames = [image(seed, 50 + seed, 90) for seed in range(5)]
    with Session(OnGpu(driver, manifest), manifest) as session, Session(OnCpu(manifest), manifest) as on_cpu:
        found = list(session.stream(iter(frames), **ARGUMENTS))
        assert len(found) == 5
        for one, expected in zip(found, on_cpu.stream(frames, **ARGUMENTS), strict=True):
            same(one, expected)


def test_threads_share_a_session(driver: FakeDriver, manifest: Manifest) -> None:
    wrong = []
    with Session(OnGpu(driver, manifest), manifest) as session, Session(OnCpu(manifest), manifest) as on_cpu:
        expected = [on_cpu.detect(image(seed), **ARGUMENTS) for seed in range(4)]

        def work(seed: int) -> None:
            for _ in range(3):
                if session.detect(image(seed), **ARGUMENTS).classes.tolist() != expected[seed].classes.tolist():
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def on_device(driver: FakeDriver, array: np.ndarray) -> DeviceArray:
    context = Context(driver)
    memory = DeviceMemory(context, array.nbytes)
    memory.handle.data[:] = np.frombuffer(array.tobytes(), np.uint8)
    return DeviceArray(context, memory.address, array.shape, array.dtype, owner=memory)


FORMATS = {
    "bgr": lambda rgb: np.ascontiguousarray(rgb[..., ::-1]),
    "bgra": lambda rgb: np.dstack([rgb[..., ::-1], rgb[..., :1]]),
    "gray": lambda rgb: rgb[..., 0].copy(),
    "nv12": lambda rgb: np.concatenate([rgb[:60, :80, 0], rgb[:30, :80, 1]]),
}


@pytest.mark.parametrize("format", FORMATS)
def test_frames_of_cameras_go_in_from_host_and_gpu(driver: FakeDriver, manifest: Manifest, format: Any) -> None:
    frame = FORMATS[format](image(7))
    with Session(OnGpu(driver, manifest), manifest) as session, Session(OnCpu(manifest), manifest) as on_cpu:
        expected = on_cpu.detect(frame, format=format, **ARGUMENTS)
        same(session.detect(frame, format=format, **ARGUMENTS), expected)
        there = on_device(driver, frame)
        session.detect(there, format=format, **ARGUMENTS)
        driver.calls.clear()
        same(session.detect(there, format=format, **ARGUMENTS), expected)
        assert "copy_to_device" not in driver.calls


def test_rows_of_a_frame_on_the_gpu_may_have_a_pitch(driver: FakeDriver, manifest: Manifest) -> None:
    wide = np.zeros((61, 128, 3), np.uint8)
    wide[:, :83] = image(3)
    whole = on_device(driver, wide)

    class Pitched:
        __cuda_array_interface__ = whole.__cuda_array_interface__ | {"shape": (61, 83, 3), "strides": (384, 3, 1)}

    class EverySecond:
        __cuda_array_interface__ = whole.__cuda_array_interface__ | {"shape": (61, 64, 3), "strides": (384, 6, 1)}

    with Session(OnGpu(driver, manifest), manifest) as session, Session(OnCpu(manifest), manifest) as on_cpu:
        same(session.detect(Pitched(), **ARGUMENTS), on_cpu.detect(image(3), **ARGUMENTS))
        with pytest.raises(RunError, match=r"expected rows without gaps for 'rgb', got strides of \(384, 6, 1\)"):
            session.detect(EverySecond())


def test_what_is_no_frame_is_refused_and_the_next_frame_is_detected(driver: FakeDriver, manifest: Manifest) -> None:
    with Session(OnGpu(driver, manifest), manifest) as session, Session(OnCpu(manifest), manifest) as on_cpu:
        with pytest.raises(DataError, match=r"expected uint8 \(H, W, 3\) for 'rgb', got float32"):
            session.detect(np.zeros((8, 8, 3), np.float32))
        with pytest.raises(UsageError, match="score_threshold: expected 0 to 1, got 7"):
            session.detect(image(0), score_threshold=7)
        same(session.detect(image(0), **ARGUMENTS), on_cpu.detect(image(0), **ARGUMENTS))


def test_an_engine_that_cannot_be_captured_detects_and_a_note_says_why(driver: FakeDriver, manifest: Manifest) -> None:
    engine = OnGpu(driver, manifest)
    engine.obstacle = "it waits"
    with Session(engine, manifest) as session, Session(OnCpu(manifest), manifest) as on_cpu:
        for _ in range(3):
            same(session.detect(image(0), **ARGUMENTS), on_cpu.detect(image(0), **ARGUMENTS))
        assert session.notes[-1:] == (
            "detection without a CUDA graph, so every kernel is launched by itself: it waits",
        )
    assert "begin_capture" not in driver.calls


def test_graphs_that_the_engine_made_invalid_are_captured_again(driver: FakeDriver, manifest: Manifest) -> None:
    engine = OnGpu(driver, manifest)
    with Session(engine, manifest) as session:
        session.detect(image(0))
        engine.graphs_dropped += 1
        driver.calls.clear()
        session.detect(image(0))
        assert "begin_capture" in driver.calls and "destroy_executable" in driver.calls


def test_without_a_kernel_for_the_gpu_the_cpu_decodes_and_a_note_says_why(
    driver: FakeDriver, manifest: Manifest
) -> None:
    driver.compute_capability = (7, 2)
    with Session(OnGpu(driver, manifest), manifest) as session, Session(OnCpu(manifest), manifest) as on_cpu:
        expected = on_cpu.detect(image(0), **ARGUMENTS)
        same(session.detect(image(0), **ARGUMENTS), expected)
        same(session.detect(on_device(driver, image(0)), **ARGUMENTS), expected)
        (note,) = session.notes
        assert note.startswith("frames are preprocessed and decoded on the CPU: expected a GPU of compute capability")


def test_an_engine_on_the_cpu_takes_no_frame_of_a_gpu(driver: FakeDriver, manifest: Manifest) -> None:
    with Session(OnCpu(manifest), manifest) as on_cpu:
        with pytest.raises(RunError, match="expected numpy arrays for an engine on the CPU"):
            on_cpu.detect(on_device(driver, image(0)))


def test_detections_are_there_after_the_session_is_closed(driver: FakeDriver, manifest: Manifest) -> None:
    session = Session(OnGpu(driver, manifest), manifest)
    started = [DETECT.start(session, image(seed), **ARGUMENTS) for seed in range(3)]
    session.close()
    assert all(each.done() and len(each.result()) > 3 for each in started)
    with pytest.raises(RunError, match="closed"):
        session.detect(image(0))


def test_whatever_fails_leaves_nothing_behind_and_the_next_frame_is_right(kernels: Any, manifest: Manifest) -> None:
    with Session(OnCpu(manifest), manifest) as on_cpu:
        expected = on_cpu.detect(image(1), **ARGUMENTS)
    failed = []
    for fail_at in range(0, 300, 17):
        driver = FakeDriver(kernels=kernels)
        with Session(OnGpu(driver, manifest), manifest) as session:
            driver.fail_at = len(driver.calls) + fail_at
            for seed in range(3):
                try:
                    session.detect(image(seed), **ARGUMENTS)
                except RunError:
                    failed.append(driver.failed)
            driver.fail_at = None
            same(session.detect(image(1), **ARGUMENTS), expected)
        gc.collect()
        assert not driver.leaks(), driver.failed
    assert len(set(failed)) > 3
