"""Measures the latency of an engine, stage by stage."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import edgekit
from edgekit.data.images import ImageSource
from edgekit.device.cpu import peak_memory_bytes
from edgekit.engine.backend import backend
from edgekit.engine.bundle.manifest import timestamp
from edgekit.limits import MAX_STREAMS
from edgekit.measure.conditions import Conditions, ConditionWatch, disturbances_from_conditions
from edgekit.measure.confidence import PERCENTILES, percentile_bounds
from edgekit.measure.latency import Disturbance, disturbances, statistics_ms
from edgekit.measure.layers import measure_layers
from edgekit.measure.machine import disturbance_by_others, processor_time, resident_bytes, this_machine
from edgekit.measure.measured_run import Run, random_feeds, run_of_session
from edgekit.measure.power import PowerWatch, sensor
from edgekit.measure.reports import LatencyReport, Memory
from edgekit.measure.run_length import RunLength, given_run_length
from edgekit.measure.steady import steady_state
from edgekit.measure.throughput import measure_throughput
from edgekit.option import given_flags, given_number, given_seed, given_sizes, given_threads
from edgekit.progress import Progress, given_progress
from edgekit.runtime.session import session_from_bundle
from edgekit.specs import TensorSpec

if TYPE_CHECKING:
    from edgekit.engine.bundle.manifest import Manifest
    from edgekit.runtime.session import Session

__all__ = ["engine_bytes", "measure", "profile_bundle"]

DEFAULT_WARMUP = 10


def profile_bundle(
    path: str | Path,
    *,
    runs: int | None = None,
    duration_s: float | None = None,
    warmup: int = DEFAULT_WARMUP,
    threads: int = 0,
    image: ImageSource | None = None,
    seed: int = 0,
    sizes: Mapping[str, Sequence[int]] | None = None,
    layers: bool = False,
    progress: Progress | None = None,
    claim: float | None = None,
    power: bool = False,
    streams: int | None = None,
) -> LatencyReport:
    """Measures the latency of the engine in the folder ``path``.

    Args:
        path: a bundle that ``edgekit build`` wrote.
        runs: number of runs to measure; None measures for ``duration_s``.
        duration_s: duration of the measurement; 10 s if neither is given. With both, whichever ends first.
        warmup: runs before the measurement, which are not counted.
        threads: threads for the engine; 0 leaves it to the backend.
        image: image for a detector (path, PIL image or RGB array); generated if None.
        seed: seed of generated inputs.
        sizes: shapes of generated inputs by name, for an engine with dynamic shapes; the name ``""`` is the first
            input. Other inputs have their opt shapes. A detector is then fed random arrays too.
        layers: measure the time of each layer too, after the latency.
        progress: receives the progress of the measurement.
        claim: a percentile, such as 99: measure until an upper bound of it can be stated with a confidence of 99 %, or
            until ``duration_s``, 120 s if not given, has passed.
        power: measure power and energy beside the runs, after a second of idling.
        streams: also measure throughput with this number of streams; 0 for several numbers; None does not.

    Raises:
        EngineMismatch: the bundle is for another machine, or was changed.
        UsageError: a number is out of range, the engine accepts no images, or it does not accept ``sizes``.
        RunError: the backend does not report the times of layers.
    """
    given_flags(layers=layers, power=power)
    runs, duration_s, warmup, claim = given_run_length(runs, duration_s, warmup, claim)
    threads, seed, sizes = given_threads(threads), given_seed(seed), given_sizes("sizes", sizes)
    streams = None if streams is None else given_number("streams", streams, 0, MAX_STREAMS)
    before = resident_bytes()
    with session_from_bundle(path, threads=threads) as session:
        report = measure(
            session,
            runs=runs,
            duration_s=duration_s,
            warmup=warmup,
            threads=threads,
            image=image,
            seed=seed,
            sizes=sizes,
            progress=progress,
            resident_before_bytes=before,
            claim=claim,
            power=power,
        )
        feeds = random_feeds(report.inputs, seed)
        if layers:
            found = measure_layers(
                session,
                lambda timed: run_of_session(timed, image, seed, sizes)[:2],
                end_to_end_ms=report.latency_ms.p50,
                inputs=report.inputs,
                graph=session.graph,
                runs=runs,
                duration_s=duration_s,
                warmup=warmup,
                progress=progress,
            )
            report = msgspec.structs.replace(report, layer_times=found)
    if streams is None:
        return report
    # After the session is closed, whose threads may still spin.
    curve = measure_throughput(path, feeds, streams=streams, threads=threads, progress=progress)
    return msgspec.structs.replace(report, throughput=curve)


def measure(
    session: Session,
    *,
    runs: int | None = None,
    duration_s: float | None = None,
    warmup: int = DEFAULT_WARMUP,
    threads: int = 0,
    image: ImageSource | None = None,
    seed: int = 0,
    sizes: Mapping[str, Sequence[int]] | None = None,
    progress: Progress | None = None,
    resident_before_bytes: int | None = None,
    claim: float | None = None,
    power: bool = False,
) -> LatencyReport:
    """Measures the latency of a loaded session.

    For a detector, each run measures three stages, from pixels in memory to detections. Other engines are measured
    from input arrays to output arrays. Decoding of image files is not included.

    Args:
        session: the loaded engine.
        runs: see `profile_bundle`.
        duration_s: see `profile_bundle`.
        warmup: see `profile_bundle`.
        threads: the number that the session was loaded with; written to the report.
        image: see `profile_bundle`.
        seed: see `profile_bundle`.
        sizes: see `profile_bundle`.
        progress: see `profile_bundle`.
        resident_before_bytes: resident set size before the engine was loaded; None if unknown.
        claim: see `profile_bundle`.
        power: see `profile_bundle`.
    """
    runs, duration_s, warmup, claim = given_run_length(runs, duration_s, warmup, claim)
    progress = given_progress(progress)
    given_flags(power=power)
    stages, once, source, inputs = run_of_session(session, image, given_seed(seed), given_sizes("sizes", sizes))
    on_gpu = backend(session.manifest.backend).on_gpu
    watched = PowerWatch(sensor(on_gpu=on_gpu) if power else "")
    with watched.idle_then_beside():
        # Before the warm-up: threads of a backend fall asleep while it reads the sensors, and the next run wakes them.
        watch = ConditionWatch(gpus=on_gpu)
        for _ in range(warmup):
            once()
        after = resident_bytes()
        before = processor_time()
        rows, ends = _rows(once, RunLength(runs, duration_s, claim, stages.index("inference")), watch, progress)
        others = disturbance_by_others(before, processor_time())
    conditions = watch.conditions()
    samples = {stage: [row[i] for row in rows] for i, stage in enumerate(stages)}
    total = [sum(row) for row in rows]
    timed = samples if len(stages) == 1 else {**samples, "total": total}
    latency = statistics_ms(samples["inference"])
    machine = this_machine()
    manifest = session.manifest
    grown = None if after is None or resident_before_bytes is None else max(0, after - resident_before_bytes)
    return LatencyReport(
        name=manifest.name,
        task=manifest.task,
        precision=str(manifest.precision),
        layers=manifest.layers,
        backend=manifest.backend,
        backend_version=manifest.backend_version,
        edgekit=edgekit.__version__,
        created=timestamp(),
        inputs=inputs,
        shapes=session.manifest.shapes,
        input_source=source,
        runs=len(rows),
        warmup=warmup,
        threads=threads,
        latency_ms=latency,
        total_ms=statistics_ms(total) if len(stages) > 1 else None,
        stages={stage: statistics_ms(values) for stage, values in samples.items()},
        samples_ms=samples,
        throughput_per_s=_batch(inputs) * 1000 / latency.mean if latency.mean else 0.0,
        engine_bytes=engine_bytes(manifest),
        memory=Memory(peak_bytes=peak_memory_bytes(), engine_bytes=grown),
        machine=machine,
        disturbances=_all_disturbances(samples["inference"], others, conditions),
        notes=session.notes,
        percentiles={
            stage: percentile_bounds(values, sorted({*PERCENTILES, *([claim] if claim else [])}))
            for stage, values in timed.items()
        },
        steady=steady_state(samples["inference"]),
        conditions=conditions,
        power=watched.power([end - 1e-3 * ms for end, ms in zip(ends, total, strict=True)], ends) if power else None,
    )


def _all_disturbances(
    samples_ms: Sequence[float], others: Disturbance | None, conditions: Conditions
) -> tuple[Disturbance, ...]:
    machine = disturbances_from_conditions(conditions, os.cpu_count() or 1)
    return (*disturbances(samples_ms), *([others] if others else []), *machine)


def _rows(
    once: Run, length: RunLength, watch: ConditionWatch, progress: Progress
) -> tuple[list[tuple[float, ...]], list[float]]:
    """Measures until there are enough runs; returns a tuple of durations (ms) per run, and when each run ended."""
    rows: list[tuple[float, ...]] = []
    ends: list[float] = []
    with progress.stage("measuring", total=length.max, unit="runs") as advance:
        while not length.ends(rows):
            rows.append(once())
            ends.append(time.perf_counter())
            watch.look()
            advance(1)
    return rows, ends


def _batch(inputs: Sequence[TensorSpec]) -> int:
    return int(inputs[0].shape[0]) if inputs[0].shape else 1


def engine_bytes(manifest: Manifest) -> int:
    """Returns the size of the engine's main file and of files with the same stem, such as OpenVINO's ``engine.bin``."""
    engine, files = manifest.engine, manifest.files
    stem = Path(engine).stem
    return sum(info.size_bytes for name, info in files.items() if name == engine or name.startswith(f"{stem}."))
