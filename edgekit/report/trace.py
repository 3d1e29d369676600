"""Writes a report's runs as a time line in Chrome's trace event format, which Perfetto and ``chrome://tracing`` open.

The format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU. An event of phase ``X``
(complete) has a start ``ts`` and a duration ``dur`` in microseconds; one of phase ``M`` (metadata) names a process or a
thread. Slices of one thread must be inside each other or apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from edgekit.report.wording import title
from edgekit.text import json_bytes

if TYPE_CHECKING:
    from edgekit.measure.layer_times import LayerTime, LayerTimes
    from edgekit.measure.reports import LatencyReport

__all__ = ["trace_from_report"]

PROCESS = 1
STAGES, LAYERS, COPIES = 1, 2, 3
TRACKS = {STAGES: "stages", LAYERS: "layers", COPIES: "copies"}
COPY = "Copy"


def trace_from_report(report: LatencyReport) -> bytes:
    """Returns the time line of some runs of a report with layer times, as JSON.

    Tracks are stages, layers, and, on a GPU, copies. If the backend does not report when a layer started, layers are
    placed one after the other from the start of the engine's run; ``otherData`` says so.

    Raises:
        ValueError: the report has no layer times.
    """
    times = report.layer_times
    if times is None:
        raise ValueError("a time line needs the times of layers: profile with layers=True")
    events = [*_names(f"{report.name}, {title(report)}"), *_events(times)]
    other = {
        "edgekit": report.edgekit,
        "cpu": report.machine.cpu,
        "starts of layers": "measured" if times.starts_measured else "not measured; layers stand one after the other",
    }
    trace = {"traceEvents": events, "displayTimeUnit": "ms", "otherData": other}
    return json_bytes(trace, indent=1) + b"\n"


def _names(process: str) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "name": "process_name", "pid": PROCESS, "tid": STAGES, "args": {"name": process}}
    for track, name in TRACKS.items():
        yield {"ph": "M", "name": "thread_name", "pid": PROCESS, "tid": track, "args": {"name": name}}
        yield {"ph": "M", "name": "thread_sort_index", "pid": PROCESS, "tid": track, "args": {"sort_index": track}}


def _events(times: LayerTimes) -> Iterator[dict[str, Any]]:
    facts = [_facts(layer, threads) for layer, threads in zip(times.layers, _threads(times), strict=True)]
    for number, run in enumerate(times.timeline, start=1):
        yield _slice(STAGES, "run", f"run {number}", run.start_ms, sum(run.stages.values()))
        start_ms = run.start_ms
        for stage, length_ms in run.stages.items():
            yield _slice(STAGES, "stage", stage, start_ms, length_ms)
            start_ms += length_ms
        engine_start_ms = run.start_ms + run.engine_start_ms
        order = sorted(range(len(run.layers)), key=lambda index: run.layers[index][0])
        # Starts are rounded to microseconds: a slice must not reach into the next.
        limits_ms = [run.layers[after][0] - run.layers[before][0] for before, after in pairwise(order)]
        for index, limit_ms in zip(order, (*limits_ms, float("inf")), strict=True):
            layer, (start_ms, length_ms) = times.layers[index], run.layers[index]
            track, kind = (COPIES, "copy") if layer.operator == COPY else (LAYERS, layer.overhead or "layer")
            name = layer.module or layer.name
            yield _slice(track, kind, name, engine_start_ms + start_ms, min(length_ms, limit_ms), facts[index])


def _slice(
    track: int, category: str, name: str, start_ms: float, length_ms: float, args: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": PROCESS,
        "tid": track,
        "ts": round(1e3 * start_ms, 3),
        "dur": round(1e3 * length_ms, 3),
        "args": args or {},
    }


def _threads(times: LayerTimes) -> tuple[tuple[str, ...], ...]:
    return times.threads or ((),) * len(times.layers)


def _facts(layer: LayerTime, threads: tuple[str, ...]) -> dict[str, Any]:
    """Returns what the viewer shows for a selected layer."""
    facts = {
        "layer": layer.name,
        "operator": layer.operator,
        "nodes": ", ".join(layer.nodes),
        "type": layer.precision,
        "inputs": ", ".join("x".join(map(str, shape)) for shape in layer.inputs),
        "outputs": ", ".join("x".join(map(str, shape)) for shape in layer.outputs),
        "MACs": layer.macs,
        "weight bytes": layer.weight_bytes,
        "activation bytes": layer.activation_bytes,
        "kernel": layer.kernel,
        "threads": ", ".join(threads),
    }
    return {name: value for name, value in facts.items() if value}
