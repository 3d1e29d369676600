"""Measures the latency of an engine, stage by stage."""

from __future__ import annotations

import datetime
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

import edgekit
from edgekit.arguments import argument
from edgekit.data.images import ImageSource, read_image
from edgekit.device.cpu import peak_memory_bytes
from edgekit.engine.backend import backend
from edgekit.errors import UsageError, nearest
from edgekit.measure.conditions import Conditions, ConditionWatch, disturbances_from_conditions
from edgekit.measure.confidence import PERCENTILES, percentile_bound, percentile_bounds, runs_needed
from edgekit.measure.latency import Disturbance, disturbances, statistics_ms
from edgekit.measure.layers import measure_layers
from edgekit.measure.machine import disturbance_by_others, processor_time, resident_bytes, this_machine
from edgekit.measure.power import PowerWatch, sensor
from edgekit.measure.reports import LatencyReport, Memory
from edgekit.measure.steady import steady_state
from edgekit.measure.throughput import measure_throughput
from edgekit.option import given_number
from edgekit.progress import Progress, Warnings
from edgekit.runtime.session import session_from_bundle
from edgekit.specs import ShapeRange, TensorSpec, sizes_of, sizes_take, specs_at, specs_text

if TYPE_CHECKING:
    from edgekit.engine.bundle.manifest import Manifest
    from edgekit.runtime.session import Session

__all__ = ["engine_bytes", "measure", "profile_bundle", "sized_inputs"]

DEFAULT_WARMUP = 10
DEFAULT_SECONDS = 10.0
MIN_RUNS = 20
MAX_RUNS = 1000
CLAIM_SECONDS = 120.0
CLAIM_GROWTH = 1.15
"""Each look at the runs is at 15 % more of them: a look after each run would stop at the first lucky estimate."""
IMAGE_SIZE_PX = (768, 576)
"""Width and height of the generated image; Darknet's ``dog.jpg`` has this size."""

Run = Callable[[], tuple[float, ...]]


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
    _check_lengths(runs, duration_s, warmup)
    _check_claim(claim, runs)
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
        feeds = _feeds(report.inputs, seed)
        if layers:
            found = measure_layers(
                session,
                lambda timed: _run_of(timed, image, seed, sizes or {})[:2],
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
    _check_lengths(runs, duration_s, warmup)
    _check_claim(claim, runs)
    progress = progress or Warnings()
    stages, once, source, inputs = _run_of(session, image, seed, sizes or {})
    on_gpu = backend(session.manifest.backend).on_gpu
    watched = PowerWatch(sensor(on_gpu=on_gpu) if power else "")
    with watched.idle_then_beside():
        # Before the warm-up: threads of a backend fall asleep while it reads the sensors, and the next run wakes them.
        watch = ConditionWatch(gpus=on_gpu)
        for _ in range(warmup):
            once()
        after = resident_bytes()
        before = processor_time()
        rows, ends = _rows(once, _Length(runs, duration_s, claim, stages.index("inference")), watch, progress)
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
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
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


def _check_lengths(runs: int | None, duration_s: float | None, warmup: int) -> None:
    if runs is not None:
        given_number("runs", runs, 1)
    if duration_s is not None and not (isinstance(duration_s, (int, float)) and duration_s > 0):
        name = argument("duration_s", flag="--duration")
        raise UsageError(f"{name}: expected more than 0 s, got {duration_s!r}")
    given_number("warmup", warmup)


def _check_claim(claim: float | None, runs: int | None) -> None:
    if claim is not None and not (isinstance(claim, (int, float)) and 0 < claim < 100):
        raise UsageError(f"{argument('claim')}: expected a percentile between 0 and 100, got {claim!r}")
    if claim is not None and runs is not None:
        raise UsageError(
            f"{argument('claim')} and {argument('runs')}: expected one of them, got both",
            hint=f"limit {argument('claim')} with {argument('duration_s', flag='--duration')}",
        )


class _Length:
    """Decides when there are enough runs."""

    def __init__(self, runs: int | None, duration_s: float | None, claim: float | None, inference: int) -> None:
        self._claim, self._inference = claim, inference
        self._next_look = 0 if claim is None else runs_needed(claim)
        if claim is not None:
            duration_s, self._min, self.max = duration_s or CLAIM_SECONDS, 1, None
        elif runs is None and duration_s is None:
            duration_s, self._min, self.max = DEFAULT_SECONDS, MIN_RUNS, MAX_RUNS
        else:
            self._min, self.max = 1, runs
        self._deadline = float("inf") if duration_s is None else time.perf_counter() + duration_s

    def ends(self, rows: Sequence[tuple[float, ...]]) -> bool:
        """Whether no further run is needed."""
        if len(rows) == self.max or (len(rows) >= self._min and time.perf_counter() >= self._deadline):
            return True
        if self._claim is None or len(rows) < self._next_look:
            return False
        self._next_look = math.ceil(len(rows) * CLAIM_GROWTH)
        # Of the engine, and of all stages together; short stages may depend on each other without an effect on these.
        columns = ([row[self._inference] for row in rows], [sum(row) for row in rows])
        return all(not percentile_bound(column, self._claim).missing_runs for column in columns)


def _rows(
    once: Run, length: _Length, watch: ConditionWatch, progress: Progress
) -> tuple[list[tuple[float, ...]], list[float]]:
    """Measures until there are enough runs; returns a tuple of durations (ms) per run, and when each run ended."""
    rows: list[tuple[float, ...]] = []
    ends: list[float] = []
    with progress.stage("Measure", total=length.max, unit="runs") as advance:
        while not length.ends(rows):
            rows.append(once())
            ends.append(time.perf_counter())
            watch.look()
            advance(1)
    return rows, ends


def _run_of(
    session: Session, image: ImageSource | None, seed: int, sizes: Mapping[str, Sequence[int]]
) -> tuple[tuple[str, ...], Run, str, tuple[TensorSpec, ...]]:
    """Returns the names of the stages, a function that runs them once, the input source, and the input shapes."""
    shapes = session.manifest.shapes
    if image is not None and sizes:
        raise UsageError(
            f"{argument('image')} and {argument('sizes', flag='--input')}: expected one of them, as images are "
            "resized to the input, got both"
        )
    if session.manifest.postprocess is not None and _takes_one(session) and not sizes:
        pixels, source = _pixels(image, seed)
        one = specs_at(session.inputs, shapes)[0]
        fed = msgspec.structs.replace(one, shape=(1, *one.shape[1:]))
        return ("preprocess", "inference", "postprocess"), _detector(session, pixels), source, (fed,)
    if image is not None:
        raise UsageError(
            f"{argument('image')}: {session.manifest.name} expects arrays and has no preprocessing, got an image",
            hint=f"leave {argument('image')} out: random numbers are used",
        )
    inputs = sized_inputs(session.inputs, shapes, sizes)
    return ("inference",), _plain(session, _feeds(inputs, seed)), "random numbers", inputs


def _feeds(inputs: Sequence[TensorSpec], seed: int) -> dict[str, np.ndarray]:
    return {spec.name: _random(spec, np.random.default_rng(seed)) for spec in inputs}


def _takes_one(session: Session) -> bool:
    first = session.inputs[0]
    return sizes_take(sizes_of(first, session.manifest.shapes)[:1], [1])


def sized_inputs(
    found: Sequence[TensorSpec], shapes: Mapping[str, ShapeRange], wanted: Mapping[str, Sequence[int]]
) -> tuple[TensorSpec, ...]:
    """Returns the inputs of an engine in the requested shapes, or else in the opt shapes of their ranges.

    Args:
        found: the inputs.
        shapes: their ranges of shapes.
        wanted: shapes by name; the name ``""`` is the first input.

    Raises:
        UsageError: there is no such input, or it does not accept the shape.
    """
    names = [spec.name for spec in found]
    chosen = {name or names[0]: tuple(shape) for name, shape in wanted.items()}
    for name in chosen:
        if name not in names:
            raise UsageError(
                f"{argument('sizes', flag='--input')}: the engine has no input '{name}'", hint=nearest(name, names)
            )
    specs = specs_at(found, shapes)
    for spec in found:
        if spec.name in chosen and not sizes_take(sizes_of(spec, shapes), chosen[spec.name]):
            raise UsageError(
                f"{argument('sizes', flag='--input')}: expected a shape that fits {specs_text([spec], shapes)}, got "
                f"{'x'.join(map(str, chosen[spec.name]))}",
                hint="build the engine for that size, or for a range that includes it",
            )
    return tuple(msgspec.structs.replace(spec, shape=chosen.get(spec.name, spec.shape)) for spec in specs)


def _detector(session: Session, pixels: np.ndarray) -> Run:
    def once() -> tuple[float, ...]:
        start = time.perf_counter_ns()
        feeds, placement = session.preprocess(pixels)
        ready = time.perf_counter_ns()
        outputs = session.run(feeds)
        done = time.perf_counter_ns()
        session.postprocess(outputs, placement)
        end = time.perf_counter_ns()
        return (ready - start) / 1e6, (done - ready) / 1e6, (end - done) / 1e6

    return once


def _plain(session: Session, feeds: dict[str, np.ndarray]) -> Run:
    def once() -> tuple[float, ...]:
        start = time.perf_counter_ns()
        session.run(feeds)
        return ((time.perf_counter_ns() - start) / 1e6,)

    return once


def _pixels(image: ImageSource | None, seed: int) -> tuple[np.ndarray, str]:
    if image is None:
        width, height = IMAGE_SIZE_PX
        return generated_image(width, height, seed), f"a generated image, {width} x {height} px"
    pixels = read_image(image)
    height, width = pixels.shape[:2]
    name = Path(image).name if isinstance(image, (str, Path)) else "an image"
    return pixels, f"{name}, {width} x {height} px"


def generated_image(width: int, height: int, seed: int) -> np.ndarray:
    """Generates an image of blobs with noise, which no stage handles as empty; uint8, ``(height, width, 3)``."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 64 + 1, width // 64 + 1, 3))
    blobs = coarse.repeat(64, axis=0).repeat(64, axis=1)[:height, :width]
    return np.clip(blobs + random.normal(0, 16, (height, width, 3)), 0, 255).astype(np.uint8)


def _random(spec: TensorSpec, random: np.random.Generator) -> np.ndarray:
    shape = tuple(int(size) for size in spec.shape)
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    # 0 and 1 are valid as indices of any vocabulary, as masks and as flags.
    return random.integers(0, 2, shape).astype(dtype)


def _batch(inputs: Sequence[TensorSpec]) -> int:
    return int(inputs[0].shape[0]) if inputs[0].shape else 1


def engine_bytes(manifest: Manifest) -> int:
    """Returns the size of the engine's main file and of files with the same stem, such as OpenVINO's ``engine.bin``."""
    engine, files = manifest.engine, manifest.files
    stem = Path(engine).stem
    return sum(info.size_bytes for name, info in files.items() if name == engine or name.startswith(f"{stem}."))
