"""Runs on arrays that are in device memory, on a fake GPU: an engine that computes ``2 x + 1``."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import fake_tensorrt
import msgspec
import numpy as np
import pytest
from fake_cuda import FakeDriver

from edgekit.device.cuda.arrays import DeviceArray
from edgekit.device.cuda.resources import Context, DeviceMemory
from edgekit.engine.bundle.manifest import Manifest
from edgekit.engine.tensorrt.runtime import load_engine
from edgekit.errors import RunError
from edgekit.runtime.session import Session
from edgekit.specs import ShapeRange

PLAN: dict[str, Any] = {"inputs": {"x": [-1, 4]}, "profiles": [[[1, 4], [1, 4], [4, 4]]]}


class Gpu:
    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.driver = FakeDriver()
        self._folder, self._manifest = folder, manifest

    def session(self, **changes: Any) -> Session:
        plan = self._folder / "engine.plan"
        plan.write_text(json.dumps(PLAN | changes))
        engine = load_engine(fake_tensorrt.library(self.driver), plan, name="tensorrt", cuda=self.driver)
        return Session(engine, msgspec.structs.replace(self._manifest, inputs=engine.inputs, outputs=engine.outputs))

    def array(self, values: np.ndarray) -> DeviceArray:
        context = Context(self.driver)
        memory = DeviceMemory(context, max(1, values.nbytes))
        memory.handle.data[: values.nbytes] = np.frombuffer(values.tobytes(), np.uint8)
        return DeviceArray(context, memory.address, values.shape, values.dtype, owner=memory)


@pytest.fixture
def gpu(tmp_path: Path, tensors: Manifest) -> Any:
    gpu = Gpu(tmp_path, tensors)
    yield gpu
    gc.collect()
    assert not gpu.driver.leaks()


def test_what_lies_on_the_gpu_is_read_there_and_the_outputs_stay_there(gpu: Gpu) -> None:
    with gpu.session() as session:
        for rows in (2, 1, 4):
            x = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
            given = gpu.array(x)
            gpu.driver.calls.clear()
            outputs = session.run({"x": given})
            assert not {"copy_to_device", "copy_to_host"} & set(gpu.driver.calls)
            assert isinstance(outputs["x_out"], DeviceArray)
            np.testing.assert_array_equal(outputs["x_out"].numpy(), 2 * x + 1)


def test_an_output_goes_into_the_next_run(gpu: Gpu) -> None:
    with gpu.session() as session:
        first = session.run({"x": gpu.array(np.ones((1, 4), np.float32))})
        second = session.run({"x": first["x_out"]})
        assert second["x_out"].numpy().tolist() == [[7, 7, 7, 7]]


def test_arrays_of_the_host_and_of_the_gpu_go_in_together(gpu: Gpu) -> None:
    with gpu.session(inputs={"x": [2], "y": [3]}, profiles=[]) as session:
        outputs = session.run({"x": gpu.array(np.float32([1, 2])), "y": np.float32([3, 4, 5])})
        assert outputs["x_out"].numpy().tolist() == [3, 5]
        assert outputs["y_out"].numpy().tolist() == [7, 9, 11]


def test_outputs_live_longer_than_the_session(gpu: Gpu) -> None:
    with gpu.session() as session:
        outputs = session.run({"x": gpu.array(np.zeros((1, 4), np.float32))})
    assert outputs["x_out"].numpy().tolist() == [[1, 1, 1, 1]]


def test_runs_on_the_host_are_still_replayed_in_between(gpu: Gpu) -> None:
    with gpu.session() as session:
        x = np.ones((2, 4), np.float32)
        for _ in range(2):
            assert (session.run({"x": x})["x_out"] == 3).all()
            assert (session.run({"x": gpu.array(x[:1])})["x_out"].numpy() == 3).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((1, 4), np.float16), r"expected float32 \(1:1:4, 4\), got float16 \(1, 4\)"),
        (np.zeros((5, 4), np.float32), r"expected float32 \(1:1:4, 4\), got \(5, 4\)"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(gpu: Gpu, tensors: Manifest, values: np.ndarray, message: str) -> None:
    with gpu.session() as session:
        session.manifest = msgspec.structs.replace(
            session.manifest, shapes={"x": ShapeRange(min=(1, 4), opt=(1, 4), max=(4, 4))}
        )
        with pytest.raises(RunError, match=message):
            session.run({"x": gpu.array(values)})


def test_an_array_with_gaps_is_refused(gpu: Gpu) -> None:
    whole = gpu.array(np.zeros((2, 8), np.float32))

    class Every2nd:
        __cuda_array_interface__ = whole.__cuda_array_interface__ | {"shape": (2, 4), "strides": (32, 8)}

    with gpu.session() as session:
        with pytest.raises(RunError, match=r"contiguous, got strides of \(32, 8\) bytes"):
            session.run({"x": Every2nd()})


def test_outputs_whose_shapes_depend_on_values_are_refused(gpu: Gpu) -> None:
    with gpu.session(values_decide=True) as session:
        with pytest.raises(RunError, match="the shapes of its outputs depend on the values of its inputs"):
            session.run({"x": gpu.array(np.ones((1, 4), np.float32))})


def test_an_engine_on_the_cpu_takes_no_array_of_a_gpu(tensors: Manifest, gpu: Gpu) -> None:
    class OnCpu:
        inputs, outputs, notes = tensors.inputs, tensors.outputs, ()

        def close(self) -> None:
            pass

    with Session(OnCpu(), tensors) as session:  # type: ignore[arg-type]
        with pytest.raises(RunError, match="expected numpy arrays for an engine on the CPU, got arrays on a GPU"):
            session.run({"left": gpu.array(np.zeros((1, 4), np.float32)), "right": np.zeros(1, np.int64)})


def test_whatever_fails_leaves_nothing_behind(tmp_path: Path, tensors: Manifest) -> None:
    failures = 0
    for fail_at in range(400):
        gpu = Gpu(tmp_path, tensors)
        try:
            with gpu.session() as session:
                given = gpu.array(np.ones((1, 4), np.float32))
                gpu.driver.fail_at = len(gpu.driver.calls) + fail_at
                outputs = session.run({"x": given})
                outputs["x_out"].numpy()
                gpu.driver.fail_at = None  # errors of finalizers are not raised
        except RunError:
            failures += 1
        outputs = given = None
        gc.collect()
        assert not gpu.driver.leaks(), gpu.driver.failed
        if not gpu.driver.failed:
            break
    assert failures > 10
