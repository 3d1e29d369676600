"""Checks detections on a GPU, from a frame to its boxes: those of the CPU, and the time with and without a CUDA graph.

TensorRT is not needed: the engine is a stand-in, which copies recorded heads to its outputs.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from typing import Any

import numpy as np

from edgekit.device.cuda.choose import driver
from edgekit.device.cuda.resources import Context, DeviceMemory, HostMemory, Stream
from edgekit.engine.bundle.manifest import FORMAT, Machine, Manifest, Source
from edgekit.kernels.decode.families import detect
from edgekit.kernels.preprocess.geometry import placement
from edgekit.recipe.schema import Postprocess, Preprocess
from edgekit.runtime.session import Session
from edgekit.specs import Precision, TensorSpec
from tools.gpu_check.decode import made

FRAME = (1080, 1920, 3)
WARMUP, REPEATS = 20, 200
# The goal of all steps around the engine.
GOAL_US = 100
MIN_SHARED, MAX_DIFFERENCE_PX = 0.99, 0.01


class RecordedHeads:
    """An engine on the GPU that copies recorded outputs; see `RunsOnDevice`."""

    notes: tuple[str, ...] = ()
    graphs_dropped = 0

    def __init__(self, context: Context, manifest: Manifest, outputs: dict[str, np.ndarray], *, obstacle: str) -> None:
        self.context = context
        self.inputs, self.outputs = manifest.inputs, manifest.outputs
        self._obstacle = obstacle
        with ExitStack() as stack:
            self.stream = stack.enter_context(Stream(context))
            self._recorded = {}
            with context.current(), self.stream.until_done():
                for name, array in outputs.items():
                    host = stack.enter_context(HostMemory(context, array.nbytes))
                    self._recorded[name] = stack.enter_context(DeviceMemory(context, array.nbytes))
                    host.array[:] = np.frombuffer(array.tobytes(), np.uint8)
                    self.stream.copy_to_device(self._recorded[name].address, host.array)
            self._stack = stack.pop_all()

    def output_shapes(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        return {spec.name: tuple(int(size) for size in spec.shape) for spec in self.outputs}

    def enqueue(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        for name, memory in self._recorded.items():
            self.stream.copy_on_device(addresses[name], memory.address, memory.size_bytes)

    def capture_obstacle(self) -> str:
        return self._obstacle

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise AssertionError("the frame left the GPU")

    def close(self) -> None:
        self._stack.close()


def check_frames(*, warmup: int = WARMUP, repeats: int = REPEATS) -> dict[str, Any]:
    """Detects objects in a frame; returns median times of a call, and what differs from the CPU."""
    head, size, outputs = made("yolov3", 1, 1000)
    manifest = _manifest(head, size, outputs)
    frame = np.random.default_rng(0).integers(0, 256, FRAME, np.uint8)
    where = placement(manifest.preprocess, FRAME[1::-1], size).placement  # type: ignore[arg-type]
    options: dict[str, Any] = {"score_threshold": 0.25, "iou_threshold": 0.45, "max_detections": 300}
    expected = detect(
        outputs, head, input_size=size, scale=where.scale, offset=where.offset, size=where.size, **options
    )
    found: dict[str, Any] = {"problems": [], "goal_us": GOAL_US}
    with Context(driver()) as context:
        for name, obstacle in (("graph", ""), ("launches", "it is measured without")):
            engine = RecordedHeads(context, manifest, outputs, obstacle=obstacle)
            with Session(engine, manifest) as session:  # type: ignore[arg-type]
                times_us = []
                for _ in range(warmup + repeats):
                    start = time.perf_counter()
                    detections = session.detect(frame, **options)
                    times_us.append(1e6 * (time.perf_counter() - start))
                found[f"{name}_us"] = statistics.median(times_us[warmup:])
                found["problems"] += [f"{name}: {note}" for note in session.notes if not obstacle]
                if problem := _difference(detections.boxes, detections.classes, expected):
                    found["problems"].append(f"{name}: {problem}")
    return found


def _difference(boxes: np.ndarray, classes: np.ndarray, expected: np.ndarray) -> str:
    # Exponentials round differently on a GPU, which can change the order of scores that are nearly equal.
    shared = [
        any(kind == other["class"] and np.abs(box - other["box"]).max() <= MAX_DIFFERENCE_PX for other in expected)
        for box, kind in zip(boxes, classes, strict=True)
    ]
    if sum(shared) >= MIN_SHARED * len(expected) and len(boxes) == len(expected):
        return ""
    return f"expected the {len(expected)} boxes of the CPU, got {len(boxes)}, of which {sum(shared)} are the same"


def _manifest(head: Any, size: tuple[int, int], outputs: dict[str, np.ndarray]) -> Manifest:
    return Manifest(
        format=FORMAT,
        edgekit="0",
        created="2026-01-01T00:00:00Z",
        name="recorded heads",
        task="detect",
        backend="tensorrt",
        backend_version="0",
        precision=Precision.FP32,
        layers={},
        engine="",
        machine=Machine(arch="", cpu="", features=(), system=""),
        source=Source(kind="onnx", name="recorded heads"),
        inputs=(TensorSpec("images", "float32", (1, 3, size[1], size[0])),),
        outputs=tuple(TensorSpec(name, array.dtype.name, array.shape) for name, array in outputs.items()),
        preprocess=Preprocess(resize="letterbox"),
        postprocess=Postprocess(head=head),
    )
