"""Times of layers from ONNX Runtime's profiler and OpenVINO's counters."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.engine.backend import BuildOptions, backend
from edgekit.engine.layer_timer import LayerTimer, TimesLayers
from edgekit.engine.onnxruntime.layer_timer import Event, Names, timings_from_events
from edgekit.errors import RunError
from edgekit.specs import Precision

FEEDS = {"x": np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)}
WriteClassifier = Callable[..., Path]


def node(name: str, operator: str, ts: int, dur: int, **more: Any) -> dict[str, Any]:
    args = {
        "op_name": operator,
        "node_index": more.pop("index", name),
        "input_type_shape": [{"float": [1, 3, 8, 8]}, {"float": [4, 3, 3, 3]}, {"float": [4]}],
        "output_type_shape": [{"float": [1, 4, 8, 8]}],
        "activation_size": "768",
        "output_size": "1024",
    }
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": args | more}


def run_of(ts: int, dur: int) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": dur, "args": {}}


def events(*entries: dict[str, Any]) -> list[Event]:
    return msgspec.json.decode(json.dumps(entries), type=list[Event])


def test_each_run_of_the_profile_has_starts_and_times_of_its_layers() -> None:
    timings = timings_from_events(
        events(
            {"cat": "Session", "name": "session_initialization", "ts": 0, "dur": 900, "args": {}},
            node("conv", "Conv", 1010, 50),
            node("relu", "Relu", 1065, 5),
            run_of(1000, 80),
            node("conv", "Conv", 2020, 40),
            node("relu", "Relu", 2061, 6),
            run_of(2000, 90),
            node("conv", "Conv", 3000, 1),  # of a run that did not end
        )
    )
    assert [(layer.name, layer.operator) for layer in timings.layers] == [("conv", "Conv"), ("relu", "Relu")]
    assert timings.times_ms == ((0.05, 0.005), (0.04, 0.006))
    assert timings.starts_ms == ((0.01, 0.065), (0.02, 0.061))


def test_the_branch_of_a_control_flow_node_is_not_counted_twice() -> None:
    inner = node("branch_conv", "Conv", 1012, 30, index="0")
    timings = timings_from_events(
        events(inner, node("if", "If", 1010, 50), node("add", "Add", 1060, 2), run_of(1000, 80))
    )
    assert [layer.name for layer in timings.layers] == ["if", "add"]
    assert timings.times_ms == ((0.05, 0.002),)


def test_layers_of_the_same_name_are_told_apart_by_their_index() -> None:
    timings = timings_from_events(
        events(node("n", "Conv", 1, 5, index="3"), node("n", "Conv", 7, 6, index="4"), run_of(0, 20))
    )
    assert timings.times_ms == ((0.005, 0.006),)


def test_constants_are_not_among_the_inputs() -> None:
    (layer,) = timings_from_events(events(node("conv", "Conv", 1, 5), run_of(0, 9))).layers
    assert (layer.inputs, layer.outputs) == (((1, 3, 8, 8),), ((1, 4, 8, 8),))
    assert layer.activation_bytes == 4 * (3 * 64 + 4 * 64)


@pytest.mark.parametrize("name", ["conv", "conv_token_12", "relu_out_nchwc", "relu_out_nchwc_token_3"])
def test_a_layer_in_another_memory_layout_has_the_nodes_of_the_engine_file(name: str) -> None:
    names = [Names("conv", ("x",), ("relu_out",))]
    (layer,) = timings_from_events(events(node(name, "Conv", 1, 5), run_of(0, 9)), names).layers
    assert (layer.name, layer.nodes) == (name, ("conv", "relu_out"))
    assert (layer.reads, layer.writes) == (("x",), ("relu_out",))


@pytest.mark.parametrize(
    ("operator", "inputs", "output", "precision"),
    [
        ("Conv", "float", "float", "float32"),
        ("QLinearConv", "uint8", "uint8", "int8"),
        ("MatMulIntegerToFloat", "int8", "float", "int8"),
        ("DequantizeLinear", "uint8", "float", "float32"),
        ("QuantizeLinear", "float", "uint8", "float32"),
        ("Gather", "int64", "int64", "int64"),
        ("Conv", "float16", "float16", "float16"),
    ],
)
def test_the_precision_is_the_type_that_a_layer_computes_in(
    operator: str, inputs: str, output: str, precision: str
) -> None:
    sizes = {"float": 4, "uint8": 1, "int8": 1, "int64": 8, "float16": 2}
    entry = node(
        "layer",
        operator,
        1,
        5,
        input_type_shape=[{inputs: [2, 2]}],
        output_type_shape=[{output: [2, 2]}],
        activation_size=str(4 * sizes[inputs]),
    )
    (layer,) = timings_from_events(events(entry, run_of(0, 9))).layers
    assert layer.precision == precision


def test_error_on_a_profile_without_a_complete_run() -> None:
    with pytest.raises(RunError, match="expected at least one complete run"):
        timings_from_events(events(node("conv", "Conv", 1, 5)))


@pytest.fixture(params=["cpu", "openvino"])
def timer(
    request: pytest.FixtureRequest, folder: Path, tmp_path: Path, write_classifier: WriteClassifier
) -> tuple[Any, LayerTimer]:
    pytest.importorskip({"cpu": "onnxruntime", "openvino": "openvino"}[request.param])
    target = backend(request.param)
    graph = write_classifier(tmp_path / "graph.onnx")
    engine = target.load(
        folder / target.build(graph, folder, BuildOptions(precision=Precision.FP32, threads=1)).engine, threads=1
    )
    assert isinstance(engine, TimesLayers)
    timer = engine.layer_timer()
    request.addfinalizer(engine.close)
    request.addfinalizer(timer.close)
    return engine, timer


def test_a_timer_computes_what_its_engine_computes(timer: tuple[Any, LayerTimer]) -> None:
    engine, timed = timer
    np.testing.assert_allclose(timed.run(FEEDS)["y"], engine.run(FEEDS)["y"], rtol=1e-5)


def test_real_layers_have_names_types_shapes_bytes_and_times(timer: tuple[Any, LayerTimer]) -> None:
    for _ in range(4):
        timer[1].run(FEEDS)
    timings = timer[1].finish()
    assert len(timings.times_ms) == 4
    assert all(len(row) == len(timings.layers) for row in timings.times_ms)
    convolutions = [layer for layer in timings.layers if "Conv" in layer.operator]
    assert [layer.outputs[0] for layer in convolutions] == [(1, 16, 16, 16), (1, 32, 8, 8), (1, 32, 8, 8)]
    assert [layer.inputs[0] for layer in convolutions] == [(1, 3, 32, 32), (1, 16, 16, 16), (1, 32, 8, 8)]
    assert {layer.precision for layer in timings.layers} == {"float32"}
    first = convolutions[1]
    assert first.activation_bytes == 4 * (16 * 16 * 16 + 32 * 8 * 8)
    assert sum(map(sum, timings.times_ms)) > 0


def test_a_closed_timer_does_not_run(timer: tuple[Any, LayerTimer]) -> None:
    timer[1].close()
    timer[1].close()
    with pytest.raises(RunError, match="closed"):
        timer[1].run(FEEDS)


def test_the_profilers_file_is_gone_after_use(
    tmp_path: Path, folder: Path, write_classifier: WriteClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.chdir(tmp_path / "temporary")
    target = backend("cpu")
    graph = write_classifier(tmp_path / "graph.onnx")
    engine: Any = target.load(folder / target.build(graph, folder, BuildOptions(precision=Precision.FP32)).engine)
    for finishes in (True, False):
        timer = engine.layer_timer()
        timer.run(FEEDS)
        assert len(list(place.iterdir())) == 1
        if finishes:
            timer.finish()
        timer.close()
        assert list(place.iterdir()) == []
    engine.close()
