"""The time line is a file in Chrome's trace event format that viewers can draw."""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgekit
from edgekit.measure.layer_times import LayerTime, LayerTimes, TimelineRun
from edgekit.measure.profile import profile_bundle
from edgekit.measure.reports import LatencyReport
from edgekit.report.trace import trace_from_report

MakeReport = Callable[..., LatencyReport]

LAYERS = (
    LayerTime(name="inputs to the device", operator="Copy", median_ms=0.5, share=0.1),
    LayerTime(
        name="conv_token_1",
        operator="QLinearConv",
        median_ms=3,
        share=0.6,
        nodes=("conv", "relu"),
        module="stem.conv",
        precision="int8",
        inputs=((1, 3, 8, 8),),
        outputs=((1, 4, 8, 8),),
        macs=1234,
    ),
    LayerTime(name="dequantize", operator="DequantizeLinear", median_ms=1.5, share=0.3, overhead="quantize"),
)


@pytest.fixture
def report(make_report: MakeReport) -> LatencyReport:
    runs = tuple(
        TimelineRun(
            start_ms=start,
            stages={"preprocess": 4.0, "inference": 6.0, "postprocess": 1.0},
            engine_start_ms=4.25,
            # The second layer ends one microsecond after the third starts: both were rounded.
            layers=((0.0, 0.5), (0.5, 3.001), (3.5, 1.5)),
        )
        for start in (0.0, 11.5)
    )
    times = LayerTimes(
        layers=LAYERS,
        runs=2,
        sum_ms=5,
        profiled_ms=5.5,
        end_to_end_ms=5.4,
        difference=-0.07,
        timeline=runs,
        starts_measured=True,
        threads=((), ("1", "2"), ("1",)),
    )
    return make_report(layer_times=times)


def slices(report: LatencyReport) -> list[dict[str, Any]]:
    return [event for event in json.loads(trace_from_report(report))["traceEvents"] if event["ph"] == "X"]


def test_every_event_has_the_fields_of_its_phase(report: LatencyReport) -> None:
    trace = json.loads(trace_from_report(report))
    assert set(trace) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert trace["displayTimeUnit"] in ("ms", "ns")
    for event in trace["traceEvents"]:
        assert event["ph"] in ("X", "M")
        assert isinstance(event["name"], str) and event["name"]
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int)
        assert isinstance(event["args"], dict)
        if event["ph"] == "X":
            assert isinstance(event["cat"], str) and event["cat"]
            assert event["ts"] >= 0 and event["dur"] >= 0
        else:
            assert event["name"] in ("process_name", "thread_name", "thread_sort_index")
            key = "sort_index" if event["name"] == "thread_sort_index" else "name"
            assert list(event["args"]) == [key]


# Trace Event Format: the fields of a complete and of a metadata event, which viewers require, and no others.
FIELDS = {
    "X": {"ph": str, "name": str, "cat": str, "pid": int, "tid": int, "ts": float, "dur": float, "args": dict},
    "M": {"ph": str, "name": str, "pid": int, "tid": int, "args": dict},
}


def test_a_measured_engine_has_a_time_line_in_microseconds(
    write_classifier: Callable[..., Path], tmp_path: Path
) -> None:
    model = write_classifier(tmp_path / "net.onnx", shape=(1, 3, 64, 64))
    engine = edgekit.build(model, precision="fp32", output=tmp_path / "engine", profile=False)
    measured = profile_bundle(engine, runs=5, layers=True)
    events = json.loads(trace_from_report(measured))["traceEvents"]
    for event in events:
        expected = FIELDS[event["ph"]]
        assert {name: float if expected[name] is float else type(value) for name, value in event.items()} == expected
        numbers = [event[name] for name in ("ts", "dur") if name in event]
        assert all(isinstance(number, (int, float)) and math.isfinite(number) and number >= 0 for number in numbers)
    assert [event["args"]["name"] for event in events if event["name"] == "process_name"]
    times = measured.layer_times
    assert times is not None
    runs = [event for event in events if event.get("cat") == "stage" and event["name"] == "inference"]
    assert [run["dur"] for run in runs] == [
        pytest.approx(1000 * run.stages["inference"], abs=1e-3) for run in times.timeline
    ]
    layers = [event for event in events if event.get("cat") not in (None, "run", "stage")]
    assert len(layers) == len(times.layers) * len(times.timeline)
    for run in runs:
        inside = [layer for layer in layers if run["ts"] <= layer["ts"] <= run["ts"] + run["dur"]]
        assert len(inside) == len(times.layers)
        assert sum(layer["dur"] for layer in inside) <= run["dur"] + 1


def test_every_track_has_a_name(report: LatencyReport) -> None:
    events = json.loads(trace_from_report(report))["traceEvents"]
    named = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert {named[event["tid"]] for event in events if event["ph"] == "X"} == {"stages", "layers", "copies"}


def test_slices_of_one_track_are_inside_each_other_or_apart(report: LatencyReport) -> None:
    tracks: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
    for event in slices(report):
        tracks[event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for spans in tracks.values():
        for (a, b), (c, d) in itertools.combinations(spans, 2):
            assert b <= c or d <= a or (a <= c and d <= b) or (c <= a and b <= d)


def test_times_are_in_microseconds_from_the_first_run(report: LatencyReport) -> None:
    found = {event["name"]: (event["ts"], event["dur"]) for event in slices(report)[:7]}
    assert found == {
        "run 1": (0, 11000),
        "preprocess": (0, 4000),
        "inference": (4000, 6000),
        "postprocess": (10000, 1000),
        "inputs to the device": (4250, 500),
        "stem.conv": (4750, 3000),
        "dequantize": (7750, 1500),
    }
    second = slices(report)[7:]
    assert [event["ts"] - first["ts"] for event, first in zip(second, slices(report)[:7], strict=True)] == [11500] * 7


def test_a_layer_says_what_it_is(report: LatencyReport) -> None:
    (first, _) = [event for event in slices(report) if event["name"] == "stem.conv"]
    assert first["args"] == {
        "layer": "conv_token_1",
        "operator": "QLinearConv",
        "nodes": "conv, relu",
        "type": "int8",
        "inputs": "1x3x8x8",
        "outputs": "1x4x8x8",
        "MACs": 1234,
        "threads": "1, 2",
    }
    assert {event["cat"] for event in slices(report)} == {"run", "stage", "copy", "layer", "quantize"}


def test_error_without_layer_times(make_report: MakeReport) -> None:
    with pytest.raises(ValueError, match="needs the times of layers"):
        trace_from_report(make_report())
