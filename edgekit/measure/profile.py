"""Runs an engine many times and writes down how long every stage took, and on what machine."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

import edgekit
from edgekit.data.images import ImageSource, read_image
from edgekit.device.cpu import peak_memory_bytes
from edgekit.errors import UsageError, nearest
from edgekit.measure.latency import disturbances, statistics_ms
from edgekit.measure.machine import resident_bytes, this_machine
from edgekit.measure.other_load import disturbance_by_others, processor_time
from edgekit.measure.reports import LatencyReport, Memory
from edgekit.progress import Progress, Silent
from edgekit.runtime.session import session_from_bundle
from edgekit.specs import TensorSpec, sizes_of, sizes_take, specs_at, specs_text

if TYPE_CHECKING:
    from edgekit.runtime.session import Session

__all__ = ["measure", "profile_bundle"]

DEFAULT_WARMUP = 10
DEFAULT_SECONDS = 10.0
FEWEST_RUNS = 20
MOST_RUNS = 1000
PICTURE_SIZE_PX = (768, 576)
"""Width and height of the picture that is made when none is given; Darknet's ``dog.jpg`` has this size."""

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
    progress: Progress | None = None,
) -> LatencyReport:
    """Loads the engine in the folder ``path``, measures it, and closes it again.

    Args:
        path: a bundle that ``edgekit build`` has made.
        runs: how many runs to measure; None measures for ``duration_s``.
        duration_s: for how long to measure; 10 s where neither is given. With both, whichever ends first.
        warmup: runs before, which are in no figure.
        threads: threads for the engine; 0 leaves it to the backend.
        image: picture for a detector (path, PIL image or RGB array); one is made where there is none.
        seed: what made-up inputs are drawn with.
        sizes: shapes of made-up inputs by name, of an engine that takes several; the name ``""`` is the first one's.
            Those that are not named have the usual sizes of their ranges. A detector is then fed arrays as others are.
        progress: told how far the measurement is.

    Raises:
        EngineMismatch: the bundle is not for this machine, or was changed.
        UsageError: a number that makes no sense, a picture for an engine that takes none, or sizes that it does not
            take.
    """
    before = resident_bytes()
    with session_from_bundle(path, threads=threads) as session:
        return measure(
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
        )


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
) -> LatencyReport:
    """Measures a loaded session.

    A detector's three stages are timed apart in one go, from pixels in memory to detections; other engines are
    given arrays and timed from arrays in to arrays out. Decoding a picture file is in no figure.

    Args:
        session: the loaded engine.
        runs: see `profile_bundle`, as all others.
        duration_s: see there.
        warmup: see there.
        threads: what the session was loaded with; written into the report.
        image: see there.
        seed: see there.
        sizes: see there.
        progress: see there.
        resident_before_bytes: memory that the process held before the engine was loaded, where known.
    """
    _check_lengths(runs, duration_s, warmup)
    progress = progress or Silent()
    stages, once, source, inputs = _run_of(session, image, seed, sizes or {})
    for _ in range(warmup):
        once()
    after = resident_bytes()
    before = processor_time()
    rows = _rows(once, runs, duration_s, progress)
    others = disturbance_by_others(before, processor_time())
    samples = {stage: [row[i] for row in rows] for i, stage in enumerate(stages)}
    total = [sum(row) for row in rows]
    latency = statistics_ms(samples["inference"])
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
        engine_bytes=_engine_bytes(session),
        memory=Memory(peak_bytes=peak_memory_bytes(), engine_bytes=grown),
        machine=this_machine(),
        disturbances=(*disturbances(samples["inference"]), *([others] if others else [])),
        notes=session.notes,
    )


def _check_lengths(runs: int | None, duration_s: float | None, warmup: int) -> None:
    if runs is not None and runs < 1:
        raise UsageError(f"runs: expected 1 or more, got {runs}")
    if duration_s is not None and not duration_s > 0:
        raise UsageError(f"duration: expected more than 0 s, got {duration_s:g}")
    if warmup < 0:
        raise UsageError(f"warmup: expected 0 or more, got {warmup}")


def _rows(once: Run, runs: int | None, duration_s: float | None, progress: Progress) -> list[tuple[float, ...]]:
    """One tuple of durations (ms) a run, until there are enough of them."""
    if runs is None and duration_s is None:
        duration_s, fewest = DEFAULT_SECONDS, FEWEST_RUNS
    else:
        fewest = 1
    most = runs if runs is not None else MOST_RUNS if fewest > 1 else None
    deadline = time.perf_counter() + duration_s if duration_s is not None else float("inf")
    rows: list[tuple[float, ...]] = []
    with progress.stage("Measure", total=runs, unit="runs") as advance:
        while len(rows) != most and (len(rows) < fewest or time.perf_counter() < deadline):
            rows.append(once())
            advance(1)
    return rows


def _run_of(
    session: Session, image: ImageSource | None, seed: int, sizes: Mapping[str, Sequence[int]]
) -> tuple[tuple[str, ...], Run, str, tuple[TensorSpec, ...]]:
    """Names of the stages, what runs them once, what is fed in, and in which shapes."""
    shapes = session.manifest.shapes
    if image is not None and sizes:
        raise UsageError("--image and --input: expected one of them, as a picture is made to fit the input, got both")
    if session.manifest.postprocess is not None and _takes_one(session) and not sizes:
        picture, source = _picture(image, seed)
        one = specs_at(session.inputs, shapes)[0]
        fed = msgspec.structs.replace(one, shape=(1, *one.shape[1:]))
        return ("preprocess", "inference", "postprocess"), _detector(session, picture), source, (fed,)
    if image is not None:
        raise UsageError(
            f"{session.manifest.name}: a picture was given, but this engine takes arrays and has no preprocessing",
            hint="leave --image out: random numbers are fed in",
        )
    inputs = _sized(session, sizes)
    feeds = {spec.name: _random(spec, np.random.default_rng(seed)) for spec in inputs}
    return ("inference",), _plain(session, feeds), "random numbers", inputs


def _takes_one(session: Session) -> bool:
    first = session.inputs[0]
    return sizes_take(sizes_of(first, session.manifest.shapes)[:1], [1])


def _sized(session: Session, wanted: Mapping[str, Sequence[int]]) -> tuple[TensorSpec, ...]:
    """The inputs in the shapes that were asked for; else in the usual ones of their ranges."""
    shapes, names = session.manifest.shapes, [spec.name for spec in session.inputs]
    chosen = {name or names[0]: tuple(shape) for name, shape in wanted.items()}
    for name in chosen:
        if name not in names:
            raise UsageError(f"--input: the engine has no input '{name}'", hint=nearest(name, names))
    specs = specs_at(session.inputs, shapes)
    for spec in session.inputs:
        if spec.name in chosen and not sizes_take(sizes_of(spec, shapes), chosen[spec.name]):
            raise UsageError(
                f"--input: expected a shape that fits {specs_text([spec], shapes)}, got "
                f"{'x'.join(map(str, chosen[spec.name]))}",
                hint="build the engine for that size, or for a range that has it",
            )
    return tuple(msgspec.structs.replace(spec, shape=chosen.get(spec.name, spec.shape)) for spec in specs)


def _detector(session: Session, picture: np.ndarray) -> Run:
    def once() -> tuple[float, ...]:
        start = time.perf_counter_ns()
        feeds, placement = session.preprocess(picture)
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


def _picture(image: ImageSource | None, seed: int) -> tuple[np.ndarray, str]:
    if image is None:
        width, height = PICTURE_SIZE_PX
        return made_picture(width, height, seed), f"a made-up picture of {width} x {height} px"
    pixels = read_image(image)
    height, width = pixels.shape[:2]
    name = Path(image).name if isinstance(image, (str, Path)) else "a picture"
    return pixels, f"{name}, {width} x {height} px"


def made_picture(width: int, height: int, seed: int) -> np.ndarray:
    """A picture of soft blobs under fine noise, so that no stage gets an empty one; uint8, ``(height, width, 3)``."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 64 + 1, width // 64 + 1, 3))
    blobs = coarse.repeat(64, axis=0).repeat(64, axis=1)[:height, :width]
    return np.clip(blobs + random.normal(0, 16, (height, width, 3)), 0, 255).astype(np.uint8)


def _random(spec: TensorSpec, random: np.random.Generator) -> np.ndarray:
    shape = tuple(int(size) for size in spec.shape)
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    # Two is the smallest vocabulary: 0 and 1 are valid indices, masks and flags everywhere.
    return random.integers(0, 2, shape).astype(dtype)


def _batch(inputs: Sequence[TensorSpec]) -> int:
    return int(inputs[0].shape[0]) if inputs[0].shape else 1


def _engine_bytes(session: Session) -> int:
    """Length of the engine's main file and of those that carry its stem, such as ``engine.bin`` of OpenVINO."""
    engine, files = session.manifest.engine, session.manifest.files
    stem = Path(engine).stem
    return sum(info.size_bytes for name, info in files.items() if name == engine or name.startswith(f"{stem}."))
