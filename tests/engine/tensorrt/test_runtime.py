from __future__ import annotations

import gc
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fake_tensorrt
import numpy as np
import pytest
from fake_cuda import FakeDriver, Misuse

from edgekit.device.cuda import resources as cuda_resources
from edgekit.engine.tensorrt import slot as tensorrt_slot
from edgekit.engine.tensorrt.runtime import TensorRtEngine, load_engine
from edgekit.errors import EdgeKitError, EngineMismatch, RunError

FIXED = {"inputs": {"x": [2, 3]}}
BATCHES = {"inputs": {"x": [-1, 3]}, "profiles": [[[1, 3], [2, 3], [4, 3]], [[8, 3], [8, 3], [16, 3]]]}

WritePlan = Callable[..., Path]


@pytest.fixture
def write_plan(tmp_path: Path) -> WritePlan:
    def write(plan: dict[str, Any] = FIXED, **more: Any) -> Path:
        file = tmp_path / "engine.plan"
        file.write_text(json.dumps(plan | more))
        return file

    return write


@pytest.fixture
def gpu() -> Iterator[FakeDriver]:
    """A discrete GPU, on which no resource may leak."""
    driver = FakeDriver()
    yield driver
    gc.collect()
    assert not driver.leaks()


def load(driver: FakeDriver, plan: Path, **library: Any) -> TensorRtEngine:
    return load_engine(fake_tensorrt.library(driver, **library), plan, name="tensorrt", cuda=driver)


def frame(number: int, *shape: int) -> dict[str, np.ndarray]:
    return {"x": np.full(shape or (2, 3), number, np.float32)}


def assert_computed(outputs: dict[str, np.ndarray], feeds: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(outputs["x_out"], 2 * feeds["x"] + 1)


@pytest.mark.parametrize("integrated", [False, True])
def test_every_run_returns_the_engines_outputs(write_plan: WritePlan, integrated: bool) -> None:
    driver = FakeDriver(integrated=integrated)
    engine = load(driver, write_plan())
    assert [str(spec) for spec in (*engine.inputs, *engine.outputs)] == ["x: float32 (2, 3)", "x_out: float32 (2, 3)"]
    for number in range(4):
        assert_computed(engine.run(frame(number)), frame(number))
    assert engine.notes == []
    engine.close()
    engine.close()
    assert not driver.leaks()


def test_outputs_are_not_overwritten_by_the_next_run(gpu: FakeDriver, write_plan: WritePlan) -> None:
    engine = load(gpu, write_plan())
    first = engine.run(frame(1))
    engine.run(frame(2))
    engine.close()
    assert_computed(first, frame(1))
    assert first["x_out"].flags.owndata


def test_the_second_run_of_a_shape_replays_a_graph_and_allocates_nothing(
    gpu: FakeDriver, write_plan: WritePlan
) -> None:
    engine = load(gpu, write_plan())
    engine.run(frame(1))
    before = len(gpu.calls)
    engine.run(frame(2))
    assert gpu.calls[before:] == [
        *("push", "copy_to_device", "launch_graph", "copy_to_host", "record_event", "pop"),
        *("push", "synchronize_event", "pop"),
    ]
    engine.close()


def test_memory_that_host_and_device_share_is_not_copied(write_plan: WritePlan) -> None:
    driver = FakeDriver(integrated=True)
    with_async = load(driver, write_plan())
    for pending in [with_async.run_async(frame(number)) for number in range(3)]:
        pending.result()
    with_async.close()
    assert not {"copy_to_device", "copy_to_host", "allocate"} & set(driver.calls)
    assert not driver.leaks()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"capturable": False}, "TensorRT reports that it cannot be captured"),
        ({"fail_enqueue": "capturing"}, "operation not permitted when stream is capturing"),
    ],
)
def test_an_engine_that_cannot_be_captured_runs_and_a_note_says_why(
    gpu: FakeDriver, write_plan: WritePlan, changes: dict[str, Any], reason: str
) -> None:
    library = fake_tensorrt.library(gpu)
    library.__dict__.update(changes)
    engine = load_engine(library, write_plan(), name="tensorrt", cuda=gpu)
    for number in range(3):
        assert_computed(engine.run(frame(number)), frame(number))
    (note,) = engine.notes
    assert note.startswith("no CUDA graph") and reason in note
    assert gpu.calls.count("begin_capture") <= 1
    engine.close()


def test_an_engine_that_fails_in_a_run_reports_its_own_message(gpu: FakeDriver, write_plan: WritePlan) -> None:
    library = fake_tensorrt.library(gpu)
    engine = load_engine(library, write_plan(), name="tensorrt", cuda=gpu)
    library.fail_enqueue = "always"
    with pytest.raises(RunError, match="operation not permitted"):
        engine.run(frame(1))
    library.fail_enqueue = ""
    assert_computed(engine.run(frame(2)), frame(2))
    engine.close()


def test_batches_of_two_profiles_in_any_order_compute_and_are_captured_each(
    gpu: FakeDriver, write_plan: WritePlan
) -> None:
    engine = load(gpu, write_plan(BATCHES))
    assert [str(spec) for spec in engine.inputs] == ["x: float32 (x_0, 3)"]
    allocations = 0
    for batch in (1, 4, 4, 1, 16, 8, 16, 2, 8, 1, 1):
        outputs = engine.run(frame(batch, batch, 3))
        assert outputs["x_out"].shape == (batch, 3)
        assert_computed(outputs, frame(batch, batch, 3))
        allocations = allocations or gpu.calls.count("allocate")
    assert gpu.calls.count("allocate") == allocations
    # 1 and 4 and 1 again before the profile changes: two captures, and two replays.
    assert gpu.calls.count("launch_graph") >= 4
    engine.close()


def test_the_number_of_cuda_graphs_is_limited(gpu: FakeDriver, write_plan: WritePlan) -> None:
    plan = write_plan({"inputs": {"x": [-1, 3]}, "profiles": [[[1, 3], [2, 3], [40, 3]]]})
    engine = load(gpu, plan)
    for batch in range(1, 21):
        assert_computed(engine.run(frame(batch, batch, 3)), frame(batch, batch, 3))
    assert gpu.leaks()["executable"] == tensorrt_slot.GRAPHS_KEPT
    engine.close()


def test_error_on_a_shape_outside_all_profiles_and_the_next_run_works(gpu: FakeDriver, write_plan: WritePlan) -> None:
    engine = load(gpu, write_plan(BATCHES))
    engine.run(frame(1, 4, 3))
    with pytest.raises(RunError) as caught:
        engine.run(frame(1, 5, 3))
    assert caught.value.message == ("inputs: expected 'x' (1, 3) to (4, 3) or 'x' (8, 3) to (16, 3), got (5, 3)")
    assert_computed(engine.run(frame(2, 4, 3)), frame(2, 4, 3))
    engine.close()


def test_half_precision_and_integer_tensors_work(gpu: FakeDriver, write_plan: WritePlan) -> None:
    for dtype, numpy_name in (("HALF", "float16"), ("INT32", "int32")):
        engine = load(gpu, write_plan(dtype=dtype))
        outputs = engine.run({"x": np.arange(6, dtype=numpy_name).reshape(2, 3)})
        assert outputs["x_out"].dtype == numpy_name
        assert outputs["x_out"].tolist() == [[1, 3, 5], [7, 9, 11]]
        engine.close()


def test_outputs_with_data_dependent_shapes_have_their_actual_shape(gpu: FakeDriver, write_plan: WritePlan) -> None:
    engine = load(gpu, write_plan(BATCHES, values_decide=True))
    assert [str(spec) for spec in engine.outputs] == ["x_out: float32 (x_out_0)"]
    random = np.random.default_rng(0)
    for _ in range(2):
        frames = [random.normal(size=(1 + number % 4, 3)).astype(np.float32) for number in range(6)] + [
            -np.ones((1, 3), "f4")
        ]
        runs = [engine.run_async({"x": x}) for x in frames]
        for x, run in zip(frames, runs, strict=True):
            np.testing.assert_array_equal(run.result()["x_out"], 2 * x[x > 0] + 1)
            np.testing.assert_array_equal(engine.run({"x": x})["x_out"], 2 * x[x > 0] + 1)
    (note,) = engine.notes
    assert "its output shapes are data-dependent" in note
    engine.close()


# Two runs in flight.


@pytest.mark.parametrize("integrated", [False, True])
def test_runs_in_flight_return_their_own_outputs(write_plan: WritePlan, integrated: bool) -> None:
    driver = FakeDriver(integrated=integrated)
    engine = load(driver, write_plan(BATCHES))
    shapes = [(1 + number % 4, 3) for number in range(9)]
    runs = [engine.run_async(frame(number, *shape)) for number, shape in enumerate(shapes)]
    for number, (run, shape) in enumerate(zip(runs, shapes, strict=True)):
        assert_computed(run.result(), frame(number, *shape))
        assert run.done()
    engine.close()
    assert not driver.leaks()


def test_inputs_of_the_next_frame_are_copied_while_this_one_is_computed(gpu: FakeDriver, write_plan: WritePlan) -> None:
    engine = load(gpu, write_plan())
    first, second = engine.run_async(frame(1)), engine.run_async(frame(2))
    assert gpu.calls.count("copy_to_device") == 2
    # Nothing has been waited for, so nothing has run on this GPU.
    assert gpu.trace == [] and not first.done() and not second.done()
    assert_computed(first.result(), frame(1))
    # The first run is done before the second, whose inputs are copied on their own stream.
    assert gpu.trace == ["copy to device", "compute", "copy to host"]
    assert_computed(second.result(), frame(2))
    engine.close()


def test_arrays_may_be_changed_as_soon_as_a_run_was_started(gpu: FakeDriver, write_plan: WritePlan) -> None:
    engine = load(gpu, write_plan())
    feeds = frame(5)
    pending = engine.run_async(feeds)
    feeds["x"][:] = 0
    assert_computed(pending.result(), frame(5))
    engine.close()


def test_a_run_whose_result_is_not_read_does_not_block_others(gpu: FakeDriver, write_plan: WritePlan) -> None:
    engine = load(gpu, write_plan())
    for number in range(5):
        engine.run_async(frame(number))
    assert_computed(engine.run(frame(9)), frame(9))
    engine.close()


def test_close_finishes_runs_in_flight_and_their_results_stay_available(gpu: FakeDriver, write_plan: WritePlan) -> None:
    engine = load(gpu, write_plan())
    runs = [engine.run_async(frame(number)) for number in range(3)]
    engine.close()
    for number, run in enumerate(runs):
        assert_computed(run.result(), frame(number))
    for refused in (engine.run, engine.run_async, engine.time_run):
        with pytest.raises(RunError, match="closed"):
            refused(frame(1))


def test_error_on_a_run_after_another_thread_closed_the_engine(gpu: FakeDriver, write_plan: WritePlan) -> None:
    engine = load(gpu, write_plan())
    engine._release()  # after the check that the engine is open
    for refused in (engine.run, engine.run_async, engine.time_run):
        with pytest.raises(RunError, match="expected an open CUDA context, got a closed one"):
            refused(frame(1))


def test_a_garbage_collected_engine_frees_its_resources(gpu: FakeDriver, write_plan: WritePlan) -> None:
    engine = load(gpu, write_plan())
    engine.run_async(frame(1))
    del engine
    gc.collect()
    assert not gpu.leaks()


def test_times_are_those_of_the_events(gpu: FakeDriver, write_plan: WritePlan) -> None:
    engine = load(gpu, write_plan())
    for use_graphs in (True, False):
        engine.use_graphs = use_graphs
        engine.run(frame(1))
        times = engine.time_run(frame(1))
        # On this GPU each operation takes 1 ms, and so does reading the clock.
        assert (times.copy_in_ms, times.gpu_ms, times.copy_out_ms) == (2, 2, 3)
        assert 0 < times.enqueue_ms < times.end_to_end_ms
    engine.close()


# Several sessions, several threads.


def test_engines_of_one_file_share_it_and_have_contexts_of_their_own(gpu: FakeDriver, write_plan: WritePlan) -> None:
    library = fake_tensorrt.library(gpu)
    plan = write_plan()
    engines = [load_engine(library, plan, name="tensorrt", cuda=gpu) for _ in range(3)]
    assert library.engines == 1
    # The weights once, and the memory of each context.
    assert gpu.leaks()["library's memory"] == 1 + 3
    engines[0].close()
    assert_computed(engines[1].run(frame(1)), frame(1))
    plan.write_text(json.dumps(FIXED | {"dtype": "HALF"}))
    changed = load_engine(library, plan, name="tensorrt", cuda=gpu)
    assert library.engines == 2 and changed.inputs[0].dtype == "float16"
    for engine in (*engines, changed):
        engine.close()


def test_threads_with_an_engine_each_and_threads_that_share_one(gpu: FakeDriver, write_plan: WritePlan) -> None:
    library = fake_tensorrt.library(gpu)
    plan = write_plan(BATCHES)
    shared = load_engine(library, plan, name="tensorrt", cuda=gpu)
    start = threading.Barrier(4)

    def work(thread: int) -> None:
        own = load_engine(library, plan, name="tensorrt", cuda=gpu)
        start.wait()
        for number in range(thread, 40 + thread):
            feeds = frame(number, 1 + number % 4, 3)
            pending = own.run_async(feeds)
            assert_computed(shared.run(feeds), feeds)
            assert_computed(pending.result(), feeds)
        own.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    shared.close()


# Errors.


def use(driver: FakeDriver, plan: Path, library: Any) -> list[str]:
    """Loads, runs and closes an engine; returns its notes."""
    engine = load_engine(library, plan, name="tensorrt", cuda=driver)
    try:
        for number, shape in enumerate([(1, 3), (1, 3), (8, 3)]):
            assert_computed(engine.run(frame(number, *shape)), frame(number, *shape))
        runs = [engine.run_async(frame(number, 2, 3)) for number in range(3)]
        for number, run in enumerate(runs):
            assert_computed(run.result(), frame(number, 2, 3))
        engine.time_run(frame(1, 2, 3))
    finally:
        engine.close()
    return engine.notes


@pytest.mark.parametrize("integrated", [False, True])
def test_any_failing_call_raises_our_error_and_nothing_leaks(write_plan: WritePlan, integrated: bool) -> None:
    plan = write_plan(BATCHES)
    calls = []
    for fail_at in itertools.count():
        driver = FakeDriver(integrated=integrated)
        driver.fail_at = fail_at
        try:
            notes = use(driver, plan, fake_tensorrt.library(driver))
        except EdgeKitError as e:
            assert "CUDA failed" in e.message or "no CUDA graph" in e.message, driver.failed
        else:
            if not driver.failed:
                break
            # It can be done without capturing, and without nothing but that.
            assert any("CUDA failed" in note for note in notes), driver.failed
        gc.collect()
        assert not driver.leaks(), f"{driver.failed}, call {fail_at}"
        calls.append(driver.failed)
    assert {"retain", "push", "pop", "create_stream", "create_event", "record_event", "synchronize_event"} <= set(calls)
    assert {"begin_capture", "end_capture", "instantiate", "launch_graph", "release", "elapsed_ms"} <= set(calls)
    assert ("copy_to_device" in calls) is not integrated and ("mapped_address" in calls) is integrated


def test_a_full_gpu_is_reported_and_nothing_leaks(write_plan: WritePlan) -> None:
    driver = FakeDriver(memory_bytes=300)
    engine = load(driver, write_plan(BATCHES))
    with pytest.raises(RunError, match="OUT_OF_MEMORY"):
        engine.run(frame(1, 16, 3))
    engine.close()
    assert not driver.leaks()


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"\0\1\2", "Magic tag does not match")],
)
def test_a_file_that_is_not_an_engine_is_rejected_with_tensorrts_message(
    gpu: FakeDriver, tmp_path: Path, content: bytes, words: str
) -> None:
    plan = tmp_path / "engine.plan"
    plan.write_bytes(content)
    with pytest.raises(EngineMismatch, match=words):
        load(gpu, plan)


@pytest.mark.parametrize("content", [b"", bytes(100), b"ftrt" + bytes(4096)], ids=["empty", "zeros", "magic"])
def test_tensorrt_rtx_itself_rejects_a_file_that_is_not_an_engine(
    gpu: FakeDriver, tmp_path: Path, content: bytes
) -> None:
    library = pytest.importorskip("tensorrt_rtx")
    plan = tmp_path / "engine.plan"
    plan.write_bytes(content)
    with pytest.raises(EngineMismatch, match="empty" if not content else "tensorrt_rtx .* does not take") as caught:
        load_engine(library, plan, name="tensorrt-rtx", cuda=gpu)
    assert "it gives no reason" not in caught.value.message


def test_a_library_that_does_not_start_reports_the_reason(gpu: FakeDriver, write_plan: WritePlan) -> None:
    library = fake_tensorrt.library(gpu)

    def fail(logger: Any) -> None:
        logger.log(logger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    library.Runtime = fail
    with pytest.raises(RunError, match=r"does not start: CUDA initialization failure with error: 35"):
        load_engine(library, write_plan(), name="tensorrt", cuda=gpu)


def test_code_in_a_plan_is_run_only_if_the_user_trusts_it(
    gpu: FakeDriver, write_plan: WritePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = write_plan(host_code=True)
    with pytest.raises(EngineMismatch, match="getEngineHostCodeAllowed") as caught:
        load(gpu, plan)
    assert "EDGEKIT_ENGINE_CODE=1" in caught.value.hint
    monkeypatch.setenv("EDGEKIT_ENGINE_CODE", "1")
    load(gpu, plan).close()


def test_a_missing_file_is_a_mismatch(gpu: FakeDriver, tmp_path: Path) -> None:
    with pytest.raises(EngineMismatch, match=r"cannot read .*engine\.plan: No such file"):
        load(gpu, tmp_path / "engine.plan")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"dtype": "FP8"}, EngineMismatch, "'x' has type FP8"),
        ({"location": "HOST"}, EngineMismatch, "'x' holds a shape"),
        ({"no_context": True}, RunError, "out of device memory"),
    ],
)
def test_error_on_an_engine_with_unsupported_tensors(
    gpu: FakeDriver, write_plan: WritePlan, change: dict[str, Any], error: type[EdgeKitError], words: str
) -> None:
    with pytest.raises(error, match=words):
        load(gpu, write_plan(**change))


def test_weights_are_refitted_from_the_graph_next_to_the_plan(gpu: FakeDriver, write_plan: WritePlan) -> None:
    library = fake_tensorrt.library(gpu)
    plan = write_plan(stripped=True)
    with pytest.raises(EngineMismatch, match=r"no graph\.onnx next to it"):
        load_engine(library, plan, name="tensorrt", cuda=gpu)
    graph = plan.parent / "graph.onnx"
    graph.write_bytes(b"another model")
    with pytest.raises(EngineMismatch, match="no such weights in the model"):
        load_engine(library, plan, name="tensorrt", cuda=gpu)
    graph.write_bytes(b"weights")
    engine = load_engine(library, plan, name="tensorrt", cuda=gpu)
    assert_computed(engine.run(frame(1)), frame(1))
    assert library.refits == [str(graph)] * 2
    engine.close()


# TensorRT-RTX's runtime cache.


def test_the_runtime_cache_is_next_to_the_plan(gpu: FakeDriver, write_plan: WritePlan) -> None:
    library = fake_tensorrt.library(gpu, rtx=True)
    plan = write_plan(BATCHES)
    for _ in range(2):
        engine = load_engine(library, plan, name="tensorrt-rtx", cuda=gpu)
        assert_computed(engine.run(frame(1, 2, 3)), frame(1, 2, 3))
        engine.close()
    assert library.compiled == 1
    assert library.strategy.name == "EAGER"
    (cache,) = (file for file in plan.parent.iterdir() if file != plan)
    assert cache.name == ".engine.plan.runtime-cache" and cache.read_bytes() == b"compiled"
    cache.write_bytes(b"of another GPU")
    load_engine(library, plan, name="tensorrt-rtx", cuda=gpu).close()
    assert library.compiled == 2 and cache.read_bytes() == b"compiled"


def test_the_runtime_cache_is_in_the_users_cache_if_the_bundle_is_read_only(
    gpu: FakeDriver, write_plan: WritePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = fake_tensorrt.library(gpu, rtx=True)
    plan = write_plan()
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    # A folder at the path of the file; permissions do not stop root.
    (plan.parent / ".engine.plan.runtime-cache").mkdir()
    for _ in range(2):
        engine = load_engine(library, plan, name="tensorrt-rtx", cuda=gpu)
        assert engine.notes == []
        engine.close()
    assert library.compiled == 1
    monkeypatch.setenv("EDGEKIT_CACHE", str(plan))
    engine = load_engine(library, plan, name="tensorrt-rtx", cuda=gpu)
    assert library.compiled == 2
    (note,) = engine.notes
    assert "the runtime cache of kernels compiled for this GPU could not be written" in note
    engine.close()


# Tests of the fake itself.


def test_a_runtime_that_does_not_wait_for_the_copy_in_is_caught(
    gpu: FakeDriver, write_plan: WritePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(gpu, write_plan())
    with monkeypatch.context() as patch:
        patch.setattr(cuda_resources.Stream, "wait", lambda stream, event: None)
        pending = engine.run_async(frame(1))
    with pytest.raises(Misuse, match="does not wait"):
        pending.result()
    engine.close()


def test_a_runtime_that_reads_before_the_copy_out_is_done_is_caught(
    gpu: FakeDriver, write_plan: WritePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(gpu, write_plan())
    with monkeypatch.context() as patch:
        patch.setattr(cuda_resources.Event, "synchronize", lambda event: None)
        with pytest.raises(Misuse, match="the host touches memory"):
            engine.run(frame(1))
    engine.close()
