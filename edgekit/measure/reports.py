"""The latency report of one engine, and the build report, which compares the engines of one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgekit import specs
from edgekit.errors import DataError
from edgekit.measure.agreement import Accuracy
from edgekit.measure.conditions import Conditions
from edgekit.measure.confidence import PercentileBound
from edgekit.measure.latency import Disturbance, Statistics
from edgekit.measure.layer_times import LayerTimes
from edgekit.measure.machine import Machine
from edgekit.measure.power import Power
from edgekit.measure.roofline import Roofline
from edgekit.measure.slower_layers import RelativeSpeed
from edgekit.measure.steady import SteadyState
from edgekit.measure.throughput import Throughput
from edgekit.text import json_bytes, json_value

__all__ = [
    "BUILD_REPORT_FILE",
    "BuildReport",
    "LatencyReport",
    "Memory",
    "build_report_from_bundle",
    "build_report_from_measurements",
    "json_from_report",
]

FORMAT = 2
"""Format 1 had no percentile bounds, and always numbers for p90, p95 and p99; it is still read."""
BUILD_REPORT_FILE = "report.json"


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory during a measurement.

    Attributes:
        peak_bytes: peak memory of this process, including Python and all libraries.
        engine_bytes: memory that loading and warming up the engine added; None if it was not measured.
    """

    peak_bytes: int
    engine_bytes: int | None = None


class LatencyReport(msgspec.Struct, frozen=True, kw_only=True):
    """The latency of one engine, and how it was measured; the JSON that ``edgekit profile --json`` prints.

    Attributes:
        format: version of this format.
        measured: always true; see `edgekit.measure.engine_estimate.EngineEstimate` for an engine that cannot run here.
        name: the model's name.
        task: ``detect`` or ``tensor``.
        precision: precision of the engine.
        layers: number of convolutions and matrix products by the element type that they run in.
        backend: the engine's backend.
        backend_version: version of the vendor's library.
        edgekit: version of EdgeKit.
        created: time of the measurement, ISO 8601, UTC.
        inputs: the engine's inputs with the measured shapes.
        input_source: what was fed to the engine.
        runs: number of measured runs.
        warmup: number of runs before the measurement, which are not counted.
        threads: threads of the engine; 0 leaves it to the backend.
        latency_ms: the engine alone, from input arrays to output arrays.
        total_ms: from image to detections; None if the engine has one stage only.
        stages: each stage separately, in the order of execution.
        samples_ms: each run of each stage, in the order of the runs.
        throughput_per_s: inputs per second: batch size divided by mean latency.
        engine_bytes: size of the engine's files.
        memory: peak memory.
        machine: the machine that this was measured on.
        disturbances: reasons why the figures may be worse than this machine allows.
        notes: the engine's notes, such as that its weights are random.
        shapes: the shape ranges of inputs with dynamic shapes.
        percentiles: upper bounds of percentiles with their confidence, by stage, and of the ``total`` of several.
        steady: where the warm-up ends in the samples.
        conditions: the state of the machine before, during and after.
        power: power and energy beside the runs; None if it was not asked for.
        throughput: throughput against latency with several streams; None if it was not asked for.
        layer_times: the time of each layer; None if it was not measured.
        roofline: the least time by the machine's peaks, and the share of it that was reached; None if not asked for.
    """

    format: int = FORMAT
    measured: bool = True
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
    percentiles: dict[str, tuple[PercentileBound, ...]] = {}
    steady: SteadyState | None = None
    conditions: Conditions | None = None
    power: Power | None = None
    throughput: Throughput | None = None
    layer_times: LayerTimes | None = None
    roofline: Roofline | None = None


class BuildReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a build gained and lost; the ``report.json`` of a bundle.

    Attributes:
        format: version of this format.
        name: the model's name.
        created: time of the last measurement, ISO 8601, UTC.
        engines: one report per precision, the reference (``fp32``) first.
        speedup: median latency of the first engine divided by that of the last: of runs by turns (``speed``) if there
            are such, which other programs disturb both alike; None with one engine.
        size_ratio: size of the first engine divided by that of the last; None with one engine.
        facts: further measurements of the build, by name: ``export_error``, ``calibration_images``, ``build_s``, ...
        notes: the notes of all engines, without duplicates.
        accuracy: how far the outputs of the last engine agree with those of the first; None if they were not compared.
        speed: the speed of the last engine beside the first, with the layers that are slower; None if it is clearly
            faster, or if there is one engine.
    """

    format: int = FORMAT
    name: str
    created: str
    engines: dict[str, LatencyReport]
    speedup: float | None
    size_ratio: float | None
    facts: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    accuracy: Accuracy | None = None
    speed: RelativeSpeed | None = None


def build_report_from_measurements(
    reports: dict[str, LatencyReport],
    facts: dict[str, Any],
    accuracy: Accuracy | None = None,
    speed: RelativeSpeed | None = None,
) -> BuildReport:
    """Combines several reports into one, which compares the last with the first.

    Raises:
        ValueError: ``reports`` is empty.
    """
    if not reports:
        raise ValueError("a build report needs at least one measurement")
    first, last = list(reports.values())[0], list(reports.values())[-1]
    compared = len(reports) > 1
    speedup = first.latency_ms.p50 / last.latency_ms.p50 if compared and last.latency_ms.p50 else None
    if speed is not None and speed.ratio.value > 0:
        speedup = 1 / speed.ratio.value
    return BuildReport(
        name=last.name,
        created=max(report.created for report in reports.values()),
        engines=dict(reports),
        speedup=speedup,
        size_ratio=first.engine_bytes / last.engine_bytes if compared and last.engine_bytes else None,
        facts=dict(facts),
        notes=tuple(dict.fromkeys(note for report in reports.values() for note in report.notes)),
        accuracy=accuracy,
        speed=speed,
    )


def build_report_from_bundle(bundle: Path) -> BuildReport | None:
    """Reads the build report of a bundle; returns None if it was built with ``--no-profile``.

    Raises:
        DataError: the file is not a build report.
    """
    path = bundle / BUILD_REPORT_FILE
    if not path.is_file():
        return None
    try:
        found: BuildReport = json_value(path.read_bytes(), type=BuildReport)
    except msgspec.DecodeError as e:
        raise DataError(f"{path}: expected a build report, got {e}", hint="build the engine again") from e
    return found


def json_from_report(report: msgspec.Struct) -> bytes:
    """Returns the report as indented JSON that ends with a newline."""
    return json_bytes(report, indent=2) + b"\n"
