from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit.device.cuda.choose import device_properties
from edgekit.engine.backend import backend
from edgekit.engine.tensorrt.runtime import TensorRtEngine
from edgekit.errors import BackendUnavailable, EngineMismatch
from edgekit.runtime.session import Session

TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2}
BATCH = (1, 2, 4)


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt-rtx"])
def target(request: pytest.FixtureRequest) -> str:
    try:
        backend(request.param).require()
    except BackendUnavailable as e:
        pytest.skip(e.message)
    return str(request.param)


@pytest.fixture(scope="module")
def graph(write_classifier: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("graph") / "classifier.onnx", shape=("N", 3, 32, 32), opset=19)


@pytest.fixture(scope="module")
def bundle_of(target: str, graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    built: dict[str, Path] = {}

    def build(precision: str) -> Path:
        if precision not in built:
            output = tmp_path_factory.mktemp("bundle") / precision
            built[precision] = edgekit.build(
                str(graph), precision=precision, target=target, batch=BATCH, output=output, profile=False
            )
        return built[precision]

    return build


@pytest.fixture
def session(bundle_of: Callable[..., Path]) -> Iterator[Session]:
    try:
        loaded = edgekit.load(bundle_of("fp32"))
    except EngineMismatch as e:
        pytest.skip(f"this GPU is not one of those that the engine is for: {e.message}")
    with loaded:
        yield loaded


@pytest.fixture
def computed(graph: Path) -> Callable[[np.ndarray], np.ndarray]:
    """What ONNX Runtime computes on the processor."""
    onnxruntime = pytest.importorskip("onnxruntime")
    reference = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    name = reference.get_inputs()[0].name
    return lambda images: reference.run(None, {name: images})[0]


def images(batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((batch, 3, 32, 32), dtype=np.float32)


def feeds_of(session: Session, array: np.ndarray) -> dict[str, np.ndarray]:
    return {session.inputs[0].name: array}


def assert_near(got: dict[str, np.ndarray], expected: np.ndarray, tolerance: float) -> None:
    (array,) = got.values()
    assert np.abs(array - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_outputs_are_those_of_onnx_runtime_for_every_batch(
    bundle_of: Callable[..., Path], computed: Callable[[np.ndarray], np.ndarray], precision: str
) -> None:
    try:
        loaded = edgekit.load(bundle_of(precision))
    except EngineMismatch as e:
        pytest.skip(f"this GPU is not one of those that the engine is for: {e.message}")
    with loaded as session:
        for seed, batch in enumerate((1, 4, 2, 2, 2, 3, 1, 4)):
            array = images(batch, seed)
            assert_near(session.run(feeds_of(session, array)), computed(array), TOLERANCE[precision])


def test_height_and_width_may_be_chosen_at_run_time(
    target: str, write_classifier: Callable[..., Path], tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    file = write_classifier(tmp_path / "classifier.onnx", shape=("N", 3, "H", "W"), opset=19)
    sides = (16, 32, 64)
    bundle = edgekit.build(
        str(file),
        precision="fp32",
        target=target,
        input={"": (BATCH, 3, sides, sides)},
        output=tmp_path / "engine",
        profile=False,
    )
    reference = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    try:
        loaded = edgekit.load(bundle)
    except EngineMismatch as e:
        pytest.skip(f"this GPU is not one of those that the engine is for: {e.message}")
    with loaded as session:
        for seed, shape in enumerate([(1, 3, 16, 64), (2, 3, 32, 32), (4, 3, 64, 64), (1, 3, 40, 24), (2, 3, 32, 32)]):
            array = np.random.default_rng(seed).random(shape, dtype=np.float32)
            expected = reference.run(None, {reference.get_inputs()[0].name: array})[0]
            assert_near(session.run(feeds_of(session, array)), expected, TOLERANCE["fp32"])


def test_a_graph_computes_what_the_engine_computes(session: Session) -> None:
    engine: Any = session._engine.opened()
    assert isinstance(engine, TensorRtEngine)
    array = images(2)
    results = []
    for use_graphs in (True, False):
        engine.use_graphs = use_graphs and engine.use_graphs
        results += [session.run(feeds_of(session, array)) for _ in range(3)]
    for result in results[1:]:
        for name, values in result.items():
            np.testing.assert_array_equal(values, results[0][name])


def test_a_stream_gives_the_outputs_of_its_frames_in_order(
    session: Session, computed: Callable[[np.ndarray], np.ndarray]
) -> None:
    arrays = [images(1 + seed % 4, seed) for seed in range(20)]
    outputs = list(session.stream(feeds_of(session, array) for array in arrays))
    for array, got in zip(arrays, outputs, strict=True):
        assert_near(got, computed(array), TOLERANCE["fp32"])


def test_threads_with_a_session_each_and_threads_that_share_one(
    bundle_of: Callable[..., Path], session: Session, computed: Callable[[np.ndarray], np.ndarray]
) -> None:
    wrong: list[int] = []

    def work(thread: int) -> None:
        array = images(1 + thread, thread)
        expected = computed(array)
        with edgekit.load(bundle_of("fp32")) as own:
            for _ in range(20):
                pending = own.run_async(feeds_of(own, array))
                for got in (session.run(feeds_of(session, array)), pending.result()):
                    (values,) = got.values()
                    if np.abs(values - expected).max() > TOLERANCE["fp32"] * np.abs(expected).max():
                        wrong.append(thread)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_sessions_give_their_memory_back(bundle_of: Callable[..., Path], session: Session) -> None:
    array = images(4)

    def once() -> None:
        with edgekit.load(bundle_of("fp32")) as loaded:
            loaded.run(feeds_of(loaded, array))
            loaded.run_async(feeds_of(loaded, array)).result()

    once()
    gc.collect()
    before = device_properties().free_bytes
    for _ in range(20):
        once()
    gc.collect()
    assert device_properties().free_bytes > before - (32 << 20)


def test_times_of_a_run_add_up(session: Session) -> None:
    engine: Any = session._engine.opened()
    feeds = feeds_of(session, images(4))
    for _ in range(3):
        times = engine.time_run(feeds)
    assert times.gpu_ms > 0 and times.enqueue_ms > 0
    assert times.copy_in_ms + times.gpu_ms + times.copy_out_ms < times.end_to_end_ms + 0.5


def test_layers_have_names_and_times_and_the_engine_stays_as_it_is(session: Session) -> None:
    engine: Any = session._engine.opened()
    feeds = feeds_of(session, images(4))
    expected = session.run(feeds)
    timer = session.layer_timer()
    for _ in range(3):
        outputs = timer.run(feeds)
    timings = timer.finish()
    timer.close()
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value, rtol=1e-3, atol=1e-3)
    assert timings.layers[0].operator == timings.layers[-1].operator == "Copy"
    assert len(timings.layers) > 2 and all(layer.name for layer in timings.layers)
    assert all(sum(row[1:-1]) > 0 for row in timings.times_ms)
    assert engine.use_graphs == (not any("CUDA graph" in note for note in engine.notes))


def test_a_plan_that_was_damaged_is_refused_and_the_process_lives(target: str, tmp_path: Path) -> None:
    for content in (b"", b"ptrt" + bytes(4096), bytes(100)):
        plan = tmp_path / "engine.plan"
        plan.write_bytes(content)
        with pytest.raises(EngineMismatch):
            backend(target).load(plan)
