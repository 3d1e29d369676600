"""The two reports as values: what one engine's measurement says, and two engines of a model side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgekit import specs
from edgekit.errors import DataError
from edgekit.measure.latency import Disturbance, Statistics
from edgekit.measure.machine import Machine

__all__ = [
    "BUILD_REPORT_FILE",
    "BuildReport",
    "LatencyReport",
    "Memory",
    "build_report_from_bundle",
    "build_report_from_measurements",
    "json_from_report",
]

FORMAT = 1
BUILD_REPORT_FILE = "report.json"


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory while measuring.

    Attributes:
        peak_bytes: the most that this process has held, Python and all libraries included.
        engine_bytes: what loading and warming up the engine added; None where that was not watched.
    """

    peak_bytes: int
    engine_bytes: int | None = None


class LatencyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, how, and on what; this is the JSON that ``edgekit profile --json`` writes.

    Attributes:
        format: version of this format.
        name: the model's name.
        task: ``detect`` or ``tensor``.
        precision: what the engine was built in.
        layers: convolutions and matrix products by the element type that they really run in.
        backend: the engine's backend.
        backend_version: version of the vendor's library.
        edgekit: version of EdgeKit.
        created: time of the measurement, ISO 8601, UTC.
        inputs: the engine's inputs with the shapes that were run.
        input_source: what was fed in.
        runs: how many runs were measured.
        warmup: how many runs came before and are not in any figure.
        threads: threads that the engine was given; 0 leaves it to the backend.
        latency_ms: the engine alone, from arrays in to arrays out.
        total_ms: picture in to detections out; None where the engine has no such stages.
        stages: every stage apart, in the order in which they run.
        samples_ms: every run of every stage, in the order in which they ran.
        throughput_per_s: inputs that the engine gets through in a second: batch size by mean latency.
        engine_bytes: length of the engine's files.
        memory: peak memory.
        machine: where this was measured.
        disturbances: why the figures may be worse than this machine can do.
        notes: the engine's own notes, such as that its weights are random.
        shapes: the ranges that the engine takes, of inputs whose sizes are chosen at run time.
    """

    format: int = FORMAT
    name: str
    task: str
    precision: str
    layers: dict[str, int]
    backend: str
    backend_version: str
    edgekit: str
    created: str
    inputs: tuple[specs.TensorSpec, ...]
    input_source: str
    runs: int
    warmup: int
    threads: int
    latency_ms: Statistics
    total_ms: Statistics | None
    stages: dict[str, Statistics]
    samples_ms: dict[str, list[float]]
    throughput_per_s: float
    engine_bytes: int
    memory: Memory
    machine: Machine
    disturbances: tuple[Disturbance, ...] = ()
    notes: tuple[str, ...] = ()
    shapes: dict[str, specs.ShapeRange] = {}


class BuildReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a build cost and gained; this is ``report.json`` of a bundle.

    Attributes:
        format: version of this format.
        name: the model's name.
        created: time of the last measurement, ISO 8601, UTC.
        engines: one report a precision, the reference (``fp32``) first.
        speedup: median of the first engine by median of the last; None with one engine.
        size_ratio: engine size of the first by the last; None with one engine.
        facts: what else the build measured, by name: ``export_error``, ``calibration_images``, ``build_s``, ...
        notes: every note of every engine, once.
    """

    format: int = FORMAT
    name: str
    created: str
    engines: dict[str, LatencyReport]
    speedup: float | None
    size_ratio: float | None
    facts: dict[str, Any] = {}
    notes: tuple[str, ...] = ()


def build_report_from_measurements(reports: dict[str, LatencyReport], facts: dict[str, Any]) -> BuildReport:
    """One report of several: the first of ``reports`` is what the last is compared with.

    Raises:
        ValueError: ``reports`` is empty.
    """
    if not reports:
        raise ValueError("a build report needs at least one measurement")
    first, last = list(reports.values())[0], list(reports.values())[-1]
    compared = len(reports) > 1
    return BuildReport(
        name=last.name,
        created=max(report.created for report in reports.values()),
        engines=dict(reports),
        speedup=first.latency_ms.p50 / last.latency_ms.p50 if compared and last.latency_ms.p50 else None,
        size_ratio=first.engine_bytes / last.engine_bytes if compared and last.engine_bytes else None,
        facts=dict(facts),
        notes=tuple(dict.fromkeys(note for report in reports.values() for note in report.notes)),
    )


def build_report_from_bundle(bundle: Path) -> BuildReport | None:
    """The report that `edgekit build` has left in a bundle; None where it was built with ``--no-profile``.

    Raises:
        DataError: the file is not such a report.
    """
    path = bundle / BUILD_REPORT_FILE
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=BuildReport)
    except msgspec.DecodeError as e:
        raise DataError(f"{path}: expected the report of a build, got {e}", hint="build the engine anew") from e


def json_from_report(report: LatencyReport | BuildReport) -> bytes:
    """The report as indented JSON with a newline at its end."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
