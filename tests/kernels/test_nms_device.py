"""`BatchedNms` through the recording driver, whose kernels are nms.cu on the CPU: arrays in, indices out."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.device.cuda import choose
from edgekit.device.cuda.resources import Context, DeviceMemory, Graph, HostMemory, Stream
from edgekit.errors import UsageError
from edgekit.kernels.suppression import reference
from edgekit.kernels.suppression.device import CAPACITY, BatchedNms
from tests.fakes.fake_cuda import FakeDriver
from tests.kernels.failing_calls import calls_that_fail_and_leak_nothing
from tools.gpu_check import nms as gpu_check

IMAGES, CANDIDATES, LIMIT = 2, 150, 40
OPTIONS = {"score_threshold": 0.2, "iou_threshold": 0.45, "max_detections": LIMIT}


@pytest.fixture
def driver(on_cpu: Callable[..., Path]) -> Iterator[FakeDriver]:
    driver = FakeDriver(kernels=ctypes.CDLL(str(on_cpu("nms"))))
    yield driver
    assert not driver.leaks()


class Frame:
    """Inputs and outputs of a batch, in pinned and device memory."""

    def __init__(self, context: Context, stack: ExitStack) -> None:
        self.context = context
        self.pinned, self.device = {}, {}
        for name, words in {
            "boxes": IMAGES * CANDIDATES * 4,
            "scores": IMAGES * CANDIDATES,
            "classes": IMAGES * CANDIDATES,
            "counts": IMAGES,
            "kept": IMAGES * LIMIT,
            "number": IMAGES,
        }.items():
            self.pinned[name] = stack.enter_context(HostMemory(context, words * 4))
            self.device[name] = stack.enter_context(DeviceMemory(context, words * 4))

    @property
    def addresses(self) -> dict[str, int]:
        return {name: memory.address for name, memory in self.device.items()}

    def fill(self, seed: int) -> dict[str, np.ndarray]:
        random = np.random.default_rng(seed)
        corner = random.uniform(0, 100, (IMAGES, CANDIDATES, 2))
        inputs = {
            "boxes": np.concatenate([corner, corner + random.uniform(1, 40, corner.shape)], 2).astype(np.float32),
            "scores": random.random((IMAGES, CANDIDATES), np.float32),
            "classes": random.integers(0, 2, (IMAGES, CANDIDATES)).astype(np.int32),
            "counts": np.array([CANDIDATES, 77], np.int32),
        }
        for name, array in inputs.items():
            self.pinned[name].array[:] = np.frombuffer(array.tobytes(), np.uint8)
        return inputs

    def submit(self, stream: Stream, suppressor: BatchedNms) -> None:
        for name in ("boxes", "scores", "classes", "counts"):
            stream.copy_to_device(self.device[name].address, self.pinned[name].array)
        suppressor.launch(stream, **self.addresses, images=IMAGES, candidates=CANDIDATES, **OPTIONS)  # type: ignore[arg-type]
        for name in ("kept", "number"):
            stream.copy_to_host(self.pinned[name].array, self.device[name].address)

    def results(self) -> list[list[int]]:
        number = self.pinned["number"].array[:].view(np.int32)
        kept = self.pinned["kept"].array[:].view(np.int32).reshape(IMAGES, LIMIT)
        return [row[:count].tolist() for row, count in zip(kept, number, strict=True)]


def expected(inputs: dict[str, np.ndarray]) -> list[list[int]]:
    return [
        reference.nms(
            *(inputs[name][image, : inputs["counts"][image]] for name in ("boxes", "scores", "classes")),
            **OPTIONS,  # type: ignore[arg-type]
        ).tolist()
        for image in range(IMAGES)
    ]


def test_a_batch_is_suppressed_as_one_replayed_graph(driver: FakeDriver) -> None:
    with ExitStack() as stack:
        context = stack.enter_context(Context(driver))
        stream = stack.enter_context(Stream(context))
        frame = Frame(context, stack)
        suppressor = stack.enter_context(BatchedNms(context, images=IMAGES))
        with context.current():
            frame.fill(0)
            graph = stack.enter_context(Graph(context, stream, lambda: frame.submit(stream, suppressor)))
            assert driver.trace == []  # captured, not run
            for seed in (1, 2):
                inputs = frame.fill(seed)
                graph.launch(stream)
                stream.synchronize()
                found = frame.results()
                assert found == expected(inputs) and all(found)
    copies = ["copy to device"] * 4, ["copy to host"] * 2
    assert driver.trace == 2 * [*copies[0], "nms_select", "nms_overlaps", "nms_sweep", *copies[1]]


def test_the_check_for_gpus_finds_a_kernel_that_is_not_exact(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "driver", lambda: driver)
    few: dict[str, Any] = {"cases": ((2, 100),), "boxes": 300, "warmup": 1, "repeats": 2}
    assert gpu_check.check_nms(**few) == {
        "boxes": 300,
        "cases": [{"images": 2, "candidates": 100, "median_us": 4000}],  # a tick of 1 ms for each kernel and event
        "problems": [],
    }
    monkeypatch.setattr(gpu_check, "nms", lambda boxes, *rest, **options: np.arange(3))
    assert gpu_check.check_nms(**few)["problems"] == [
        "2 images, 100 candidates above the threshold: expected the boxes of the reference, got others"
    ]


def test_the_example_of_the_documentation_prints_what_it_says(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "kernels.md").read_text(encoding="utf-8")
    (example,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "BatchedNms(" in code]
    monkeypatch.setattr(choose, "driver", lambda: driver)
    exec(compile(example, "kernels.md", "exec"), {})
    assert capsys.readouterr().out == "[0 2]\n"


def test_the_workspace_is_for_the_kernels_capacity(on_cpu: Callable[..., Path]) -> None:
    assert ctypes.CDLL(str(on_cpu("nms"))).nms_capacity() == CAPACITY


def test_everything_is_freed_whichever_call_fails() -> None:
    assert calls_that_fail_and_leak_nothing(lambda context: BatchedNms(context, images=1).close()) > 10


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": 3}, "images: expected 1 to 2, got 3"),
        ({"images": 0}, "images: expected 1 to 2, got 0"),
        ({"candidates": 0}, "candidates: expected 1 or more, got 0"),
        ({"score_threshold": -0.1}, "score_threshold: expected 0 to 1, got -0.1"),
        ({"iou_threshold": float("nan")}, "iou_threshold: expected 0 to 1, got nan"),
        ({"max_detections": -1}, "max_detections: expected a whole number from 0 to 2147483647, got -1"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_launched(
    driver: FakeDriver, changed: dict[str, float], message: str
) -> None:
    addresses = dict.fromkeys(("boxes", "scores", "classes", "counts", "kept", "number"), 0)
    arguments = {**addresses, "images": 1, "candidates": 1, **OPTIONS, **changed}
    with Context(driver) as context, Stream(context) as stream, BatchedNms(context, images=2) as suppressor:
        with context.current(), pytest.raises(UsageError, match=message):
            suppressor.launch(stream, **arguments)  # type: ignore[arg-type]
        assert "launch" not in driver.calls
    with Context(driver) as context, pytest.raises(UsageError, match="images: expected 1 or more, got 0"):
        BatchedNms(context, images=0)
