"""Times of layers: mapped to the graph, grouped, and compared with a run."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import edgekit
from edgekit.engine.layer_timer import LayerTimings, TimedLayer
from edgekit.errors import RunError
from edgekit.measure import layers as measuring
from edgekit.measure.inspection import inspection_from_bundle
from edgekit.measure.layer_groups import groups_by_module
from edgekit.measure.layer_times import LayerTime, LayerTimes
from edgekit.measure.layers import measure_layers
from edgekit.measure.profile import profile_bundle
from edgekit.measure.reports import LatencyReport, json_from_report
from edgekit.progress import Silent
from edgekit.runtime.session import Session, session_from_bundle

# Outputs x kernel x input channels of the three convolutions and the Gemm of `write_classifier`.
CLASSIFIER_MACS = (16 * 16 * 16) * 9 * 3 + (32 * 8 * 8) * 9 * 16 + (32 * 8 * 8) * 9 * 32 + 10 * 32
NODES = {"Conv": 3, "Relu": 3, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}

WriteClassifier = Callable[..., Path]
Build = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, write_classifier: WriteClassifier) -> Build:
    """Builds a foreign ONNX file, whose nodes have no names, once for each target and precision."""
    folder = tmp_path_factory.mktemp("engines")
    graph = write_classifier(folder / "classifier.onnx")

    def build(target: str, precision: Any) -> Path:
        pytest.importorskip({"cpu": "onnxruntime", "openvino": "openvino"}[target])
        place = folder / f"{target}-{precision}"
        if not place.exists():
            options: dict[str, Any] = {"calib_images": 2} if precision == "int8" else {}
            edgekit.build(graph, precision=precision, target=target, profile=False, output=place, **options)  # type: ignore[arg-type]
        return place

    return build


def layer_times(bundle: Path, runs: int = 10) -> LayerTimes:
    found = profile_bundle(bundle, runs=runs, warmup=2, threads=1, layers=True).layer_times
    assert found is not None
    return found


def nodes_of(graph: Path) -> dict[str, str]:
    onnx = pytest.importorskip("onnx")
    return {node.name: node.op_type for node in onnx.load(graph).graph.node}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_every_layer_has_nodes_and_every_node_has_a_layer(built: Build, target: str, precision: str) -> None:
    bundle = built(target, precision)
    times = layer_times(bundle)
    operators = nodes_of(bundle / "graph.onnx")
    assert times.mapped and times.unmapped == 0
    assert {node for layer in times.layers for node in layer.nodes} == set(operators)
    for operator, count in NODES.items():
        assert sum(operators[node] == operator for layer in times.layers for node in layer.nodes) == count
    assert sum(layer.macs or 0 for layer in times.layers) == CLASSIFIER_MACS
    by_macs = sorted(times.layers, key=lambda layer: layer.macs or 0, reverse=True)[:3]
    assert {layer.precision for layer in by_macs} == {{"fp32": "float32", "int8": "int8"}[precision]}


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_fused_layers_list_all_their_nodes(built: Build, target: str) -> None:
    bundle = built(target, "fp32")
    operators = nodes_of(bundle / "graph.onnx")
    convolutions = [layer for layer in layer_times(bundle).layers if "Conv" in layer.operator]
    assert [[operators[node] for node in layer.nodes] for layer in convolutions] == [["Conv", "Relu"]] * 3


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_conversions_of_an_int8_engine_are_overhead_of_quantization(built: Build, target: str) -> None:
    quantized, plain = (layer_times(built(target, precision)) for precision in ("int8", "fp32"))
    assert quantized.overhead_ms["quantize"] > 0
    assert "quantize" not in plain.overhead_ms
    for times in (quantized, plain):
        for layer in times.layers:
            # No row of overhead computes a convolution, and all add up to the total by kind.
            assert not (layer.overhead and layer.macs)
        total = sum(layer.median_ms for layer in times.layers if layer.overhead)
        assert sum(times.overhead_ms.values()) == pytest.approx(total)


def test_weights_count_in_the_type_that_they_are_stored_in(built: Build) -> None:
    def bytes_of(precision: str) -> int:
        times = layer_times(built("cpu", precision))
        return max(layer.weight_bytes or 0 for layer in times.layers)

    # The largest convolution: 32 x 32 x 3 x 3 weights and 32 biases; in INT8, biases have 4 bytes too.
    assert bytes_of("fp32") == 4 * (32 * 32 * 9 + 32)
    assert bytes_of("int8") == 32 * 32 * 9 + 4 * 32


def test_shares_and_groups_add_up(built: Build) -> None:
    times = layer_times(built("cpu", "int8"))
    assert sum(layer.share for layer in times.layers) == pytest.approx(1)
    assert times.sum_ms == pytest.approx(sum(layer.median_ms for layer in times.layers))
    assert sum(group.median_ms for group in times.by_operator) == pytest.approx(times.sum_ms)
    assert sum(group.layers for group in times.by_operator) == len(times.layers)
    assert sum(group.macs or 0 for group in times.by_operator) == CLASSIFIER_MACS
    assert [g.median_ms for g in times.by_operator] == sorted((g.median_ms for g in times.by_operator), reverse=True)


def test_the_time_line_has_stages_and_layers_inside_the_engines_run(built: Build) -> None:
    times = layer_times(built("cpu", "fp32"))
    assert times.starts_measured and len(times.timeline) == 5
    for before, after in zip(times.timeline, times.timeline[1:], strict=False):
        assert after.start_ms >= before.start_ms + sum(before.stages.values())
    for run in times.timeline:
        last = max(start + length for start, length in run.layers)
        assert run.engine_start_ms + last <= run.stages["inference"] + 0.05
        assert min(start for start, _ in run.layers) >= 0


def test_a_board_without_onnx_sees_times_and_names(built: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = built("cpu", "fp32")
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    times = layer_times(bundle)
    assert not times.mapped and times.unmapped == 0
    assert any("not mapped" in note for note in times.notes)
    assert all(layer.name and layer.macs is None and layer.module == "" for layer in times.layers)
    assert sum("Conv" in layer.operator for layer in times.layers) == 3


def test_a_report_with_layer_times_is_read_back_from_json(built: Build) -> None:
    report = profile_bundle(built("openvino", "fp32"), runs=5, warmup=0, threads=1, layers=True)
    assert msgspec.json.decode(json_from_report(report), type=LatencyReport) == report


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("recipe", ["lenet", "resnet18", "yolov3-tiny", "transformer-tiny", "mobilenet-v2"])
def test_every_node_of_a_recipe_has_a_layer(recipe: str, target: str, tmp_path: Path) -> None:
    pytest.importorskip({"cpu": "onnxruntime", "openvino": "openvino"}[target])
    bundle = edgekit.build(recipe, precision="int8", target=target, profile=False, output=tmp_path, calib_images=2)  # type: ignore[arg-type]
    times = layer_times(bundle, runs=3)
    assert times.unmapped == 0
    operators = nodes_of(bundle / "graph.onnx")
    assert {node for layer in times.layers for node in layer.nodes} == set(operators)
    assert sum(layer.macs or 0 for layer in times.layers) == inspection_from_bundle(bundle).macs


SLOW = """
<ir_version: 8, opset_import: ["" : 17]>
slow (float[1, 16, 28, 28] x) => (float[1, 16, 28, 28] y) {
    a = Conv (x, small0)
    b = Relu (a)
    c = Conv (b, small1)
    d = Relu (c)
    e = Conv <pads = [3, 3, 3, 3]> (d, planted)
    f = Relu (e)
    y = Conv (f, small2)
}
"""


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_a_planted_slow_layer_is_found_as_the_slowest(target: str, tmp_path: Path) -> None:
    pytest.importorskip({"cpu": "onnxruntime", "openvino": "openvino"}[target])
    onnx = pytest.importorskip("onnx")
    model = onnx.parser.parse_model(SLOW)
    random = np.random.default_rng(0)
    for name, size in {"small0": 1, "small1": 1, "small2": 1, "planted": 7}.items():
        weight = random.normal(0, 0.1, (16, 16, size, size)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    for node in model.graph.node:
        node.name = f"/net/{node.output[0]}/{node.op_type}"
    onnx.save(model, tmp_path / "slow.onnx")
    bundle = edgekit.build(
        tmp_path / "slow.onnx", precision="fp32", target=target, profile=False, output=tmp_path / "engine"
    )
    times = layer_times(bundle, runs=30)
    slowest = max(times.layers, key=lambda layer: layer.median_ms)
    assert "/net/e/Conv" in slowest.nodes and slowest.module == "net.e"
    assert slowest.macs == 28 * 28 * 16 * 16 * 49


# With a clock of its own: what the layers add up to, and what is said about it.


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now_ms = 0.0

    def perf_counter_ns(self) -> int:
        return round(self.now_ms * 1e6)

    def perf_counter(self) -> float:
        return self.now_ms / 1e3


class FixedTimer:
    """Reports the same layers for each run; a run takes what is given, layer by layer or not."""

    def __init__(self, clock: Clock, run_ms: float, layers: Sequence[TimedLayer], rows: Sequence[Sequence[float]]):
        self.clock, self.run_ms, self.layers, self.rows = clock, run_ms, tuple(layers), rows
        self.runs = 0
        self.closed = False

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.clock.now_ms += self.run_ms
        self.runs += 1
        return {"y": np.zeros((2, 4), np.float32)}

    def finish(self) -> LayerTimings:
        rows = [tuple(self.rows[index % len(self.rows)]) for index in range(self.runs)]
        return LayerTimings(layers=self.layers, times_ms=tuple(rows))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(measuring, "time", clock)
    return clock


Measured = Callable[..., tuple[LayerTimes, FixedTimer]]


@pytest.fixture
def measured(clock: Clock, arrays_engine: Path) -> Iterator[Measured]:
    """Measures made-up layers."""

    def measure(
        *rows: Sequence[float], run_ms: float, end_to_end_ms: float, layers: Sequence[TimedLayer] = ()
    ) -> tuple[LayerTimes, FixedTimer]:
        named = layers or [TimedLayer(name=f"layer{index}", operator="Conv") for index in range(len(rows[0]))]
        timer = FixedTimer(clock, run_ms, named, rows)
        with session_from_bundle(arrays_engine) as loaded:
            engine = types.SimpleNamespace(
                inputs=loaded.inputs,
                outputs=loaded.outputs,
                notes=(),
                layer_timer=lambda: timer,
                close=lambda: None,
                run=timer.run,
            )
            session = Session(engine, loaded.manifest)

            def stages_of(timed: Session) -> tuple[tuple[str, ...], Callable[[], tuple[float, ...]]]:
                def once() -> tuple[float, ...]:
                    start = clock.now_ms
                    timed.run({"x": np.zeros((2, 8), np.float32)})
                    return (clock.now_ms - start,)

                return ("inference",), once

            times = measure_layers(session, stages_of, end_to_end_ms=end_to_end_ms, runs=20, warmup=3)
        return times, timer

    yield measure


def test_layers_that_add_up_need_no_explanation(measured: Measured) -> None:
    times, timer = measured((1.0, 3.0, 0.8), run_ms=5.0, end_to_end_ms=5.0)
    assert (times.sum_ms, times.profiled_ms, times.difference) == pytest.approx((4.8, 5.0, -0.04))
    assert times.notes == ("Layers are not mapped to the model: that needs the bundle's graph and onnx-ir.",)
    assert timer.runs == 23 and times.runs == 20 and timer.closed


@pytest.mark.parametrize(
    ("rows", "run_ms", "end_to_end_ms", "sentence"),
    [
        (
            [(4.0, 4.0)],
            8.0,
            5.0,
            "The layers add up to 8.00 ms, 60 % more than the 5.00 ms of a run: runs took 8.00 ms while layers were "
            "timed.",
        ),
        (
            [(1.0, 2.0)],
            5.0,
            5.0,
            "The layers add up to 3.00 ms, 40 % less than the 5.00 ms of a run: 2.00 ms of a run pass between the "
            "layers.",
        ),
        (
            # In each run, another layer is slow.
            [(9.0, 1.0, 1.0), (1.0, 9.0, 1.0), (1.0, 1.0, 9.0)],
            11.0,
            11.0,
            "The layers add up to 3.00 ms, 73 % less than the 11.0 ms of a run: single layers vary from run to run, so "
            "that their medians do not add up to the median of a run.",
        ),
    ],
)
def test_the_sentence_names_the_difference_and_its_cause(
    measured: Measured, rows: list[tuple[float, ...]], run_ms: float, end_to_end_ms: float, sentence: str
) -> None:
    times, _ = measured(*rows, run_ms=run_ms, end_to_end_ms=end_to_end_ms)
    assert times.notes[0] == sentence


def test_layers_without_starts_stand_one_after_the_other_in_the_time_line(measured: Measured) -> None:
    times, _ = measured((1.0, 3.0, 0.5), run_ms=5.0, end_to_end_ms=5.0)
    assert not times.starts_measured
    assert times.timeline[1].layers == ((0.0, 1.0), (1.0, 3.0), (4.0, 0.5))
    assert times.timeline[1].start_ms == pytest.approx(5.0)


def test_the_number_of_runs_is_limited_because_the_backends_record_grows(clock: Clock) -> None:
    rows, _ = measuring._repeat(lambda: (1.0,), 10_000, None, 0, Silent())
    assert len(rows) == 100


def test_copies_belong_to_the_sum_and_are_no_overhead(measured: Measured) -> None:
    layers = [TimedLayer(name="inputs to the device", operator="Copy"), TimedLayer(name="conv", operator="Conv")]
    times, _ = measured((1.0, 4.0), run_ms=5.0, end_to_end_ms=5.0, layers=layers)
    assert times.sum_ms == pytest.approx(5.0)
    assert times.overhead_ms == {}


def groups_of(*layers: tuple[str, float]) -> dict[str, float]:
    total = sum(ms for _, ms in layers)
    made = [
        LayerTime(name=str(index), operator="Conv", median_ms=ms, share=ms / total, module=module)
        for index, (module, ms) in enumerate(layers)
    ]
    return {group.name: group.median_ms for group in groups_by_module(made)}


def test_a_module_with_most_of_the_time_is_divided() -> None:
    assert groups_of(
        ("backbone.stem.a", 1), ("backbone.stem.b", 1), ("backbone.body.a", 4), ("backbone.body.b", 4), ("neck.a", 2),
        ("neck.b", 2), ("", 1), ("head.a", 3),
    ) == {"backbone.body": 8, "neck": 4, "head": 3, "backbone.stem": 2, "": 1}  # fmt: skip


def test_names_without_modules_make_no_groups() -> None:
    assert groups_of(("Conv_0", 1), ("Relu_1", 2), ("Conv_2", 3)) == {}


def test_error_for_a_backend_that_does_not_time_layers(arrays_engine: Path) -> None:
    with pytest.raises(RunError, match="expected a backend that reports the times of layers, got 'null'"):
        profile_bundle(arrays_engine, runs=1, layers=True)


def test_dynamic_sizes_count_as_measured(tmp_path: Path, write_classifier: WriteClassifier) -> None:
    pytest.importorskip("onnxruntime")
    graph = write_classifier(tmp_path / "dynamic.onnx", shape=("batch", 3, 32, 32))
    bundle = edgekit.build(
        graph,
        precision="fp32",
        target="cpu",
        profile=False,
        output=tmp_path / "engine",
        input={"x": ((1, 1, 4), 3, 32, 32)},
    )
    times = profile_bundle(bundle, runs=3, warmup=0, threads=1, layers=True, sizes={"x": (4, 3, 32, 32)}).layer_times
    assert times is not None
    assert sum(layer.macs or 0 for layer in times.layers) == 4 * CLASSIFIER_MACS
