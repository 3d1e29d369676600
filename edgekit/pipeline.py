"""The order of the stages: the one module that sees them all."""

from __future__ import annotations

import contextlib
import datetime
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import edgekit
from edgekit.data.calibration_set import CalibrationSet, calibration_set
from edgekit.engine.backend import Backend, BuildOptions, BuildResult, backend
from edgekit.engine.builder import engine_from_graph
from edgekit.engine.bundle import FORMAT, CalibrationInfo, Manifest, seal, this_machine, write_bundle
from edgekit.errors import UsageError, nearest
from edgekit.graph.file import output_specs, save_graph
from edgekit.graph.stats import stats_from_graph
from edgekit.models.download import weights_cache
from edgekit.progress import Advance, Progress, Silent
from edgekit.quantize.calibrate import (
    CalibrationTable,
    collect_statistics,
    graph_digest,
    observed_tensors,
    ranges_from_statistics,
)
from edgekit.quantize.observers import needs_histogram
from edgekit.quantize.quantize import quantized_graph
from edgekit.quantize.table import cached_table, keep_table, write_table
from edgekit.recipe import Preprocess
from edgekit.report.profile import measure
from edgekit.report.reports import LatencyReport
from edgekit.report.write import write_build_report
from edgekit.runtime.session import Session
from edgekit.source import ModelSource, Wanted, model_source
from edgekit.specs import Precision

__all__ = ["build"]

DEFAULT_METHOD = "minmax"
DEFAULT_SET = "sample"
RANDOM_INPUTS = 16
FEWEST_RUNS = 20
MOST_RUNS = 200
MEASURE_S = 2.0
COMPARED_INPUTS = 4

BUILDABLE = (Precision.FP32, Precision.INT8)


@dataclass(frozen=True)
class Order:
    """What `build` was asked for, besides the model itself.

    Attributes:
        precision: of the engine.
        target: name of the backend.
        calib: folder, manifest or name of a calibration set; None is the recipe's, or the shipped one.
        method: how ranges are chosen.
        calib_images: at most so many.
        keep_float: patterns of nodes that stay in float, besides the recipe's.
        threads: for the engine.
        profile: measure FP32 beside the engine.
        rebuild: the command line that asks for the same.
    """

    precision: Precision
    target: str
    calib: str | None
    method: str | None
    calib_images: int | None
    keep_float: tuple[str, ...]
    threads: int
    profile: bool
    rebuild: str


@dataclass
class _Noted:
    """Passes progress on, and remembers the notes for the manifest."""

    to: Progress
    notes: list[str] = field(default_factory=list)

    def stage(self, title: str, *, total: float | None = None, unit: str = "") -> AbstractContextManager[Advance]:
        return self.to.stage(title, total=total, unit=unit)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            self.to.note(text)


def build(
    model: Any,
    *,
    precision: str = "int8",
    target: str | None = None,
    weights: str | Path | None = None,
    calib: str | Path | None = None,
    calib_method: str | None = None,
    calib_images: int | None = None,
    keep_float: Sequence[str] = (),
    output: str | Path | None = None,
    shape: Sequence[int] | None = None,
    input: Mapping[str, Sequence[int]] | None = None,
    preprocess: Preprocess | None = None,
    opset: int | None = None,
    seed: int = 0,
    threads: int = 0,
    profile: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Compiles a model into an engine.

    Args:
        model: a recipe's name or file, an ONNX file, ``package.module:factory``, or an ``nn.Module``.
        precision: ``int8`` or ``fp32``.
        target: the backend; ``cpu`` where none is named.
        weights: a Darknet, PyTorch or safetensors file, or a set that the recipe publishes, such as ``coco``.
        calib: pictures to calibrate INT8 on: a folder, a manifest, or the name of a shipped set.
        calib_method: ``minmax``, ``percentile``, ``entropy`` or ``mse``.
        calib_images: calibrate on at most so many.
        keep_float: patterns of names of graph nodes that stay in float.
        output: the bundle's folder; ``engines/NAME-PRECISION-TARGET`` if None.
        shape: ``(H, W)`` of the picture, or all sizes of the first input.
        input: shapes of a module's or ONNX file's inputs by name; the name ``""`` stands for the first.
        preprocess: how pictures become inputs, instead of the recipe's.
        opset: version of ONNX's operators to export to.
        seed: for random weights.
        threads: that the engine is to run on; 0 leaves it to the backend.
        profile: measure the engine, and FP32 beside it.
        progress: is told of every stage.

    Returns:
        The bundle's folder.

    Raises:
        EdgeKitError: what `edgekit.errors` lists; nothing half-built is left behind.
    """
    options = {name: value for name, value in locals().items() if name not in ("model", "progress")}
    noted = _Noted(progress or Silent())
    named = "cpu" if target is None else target
    order = Order(
        precision=_precision(precision),
        target=named,
        calib=None if calib is None else str(calib),
        method=calib_method,
        calib_images=calib_images,
        keep_float=tuple(keep_float),
        threads=threads,
        profile=profile,
        rebuild=_command(model, options),
    )
    if calib_method is not None:
        needs_histogram(calib_method)
    engine_backend = backend(order.target)
    engine_backend.require()
    wanted = Wanted(
        model=model,
        weights=None if weights is None else str(weights),
        shape=None if shape is None else tuple(shape),
        inputs=None if input is None else {name: tuple(sizes) for name, sizes in input.items()},
        preprocess=preprocess,
        opset=opset,
        seed=seed,
    )
    started = time.perf_counter()
    source = model_source(wanted, noted)
    place = Path(output) if output is not None else Path("engines") / f"{source.name}-{precision}-{order.target}"
    with write_bundle(place, needed_bytes=_needed_bytes(source)) as folder:
        _fill(folder, source, order, engine_backend, noted, started)
    return place


def _fill(
    folder: Path, source: ModelSource, order: Order, engine_backend: Backend, noted: _Noted, started: float
) -> None:
    """Builds, measures and describes the engine in the staging folder."""
    facts: dict[str, Any] = {"macs": stats_from_graph(source.graph).macs}
    if source.export_error is not None:
        facts["export_error"] = source.export_error
    with tempfile.TemporaryDirectory(prefix=".fp32-", dir=folder) as name:
        fp32 = Path(name)
        float_graph = fp32 / "graph.onnx"
        calibration = None
        compare = order.precision is Precision.INT8 and not source.quantized and order.profile
        if compare:
            save_graph(source.graph, float_graph)
        inputs = _sample_inputs(source, order, noted) if compare else []
        if order.precision is Precision.INT8:
            calibration = _quantize(folder, source, order, engine_backend, noted, facts)
        save_graph(source.graph, folder / "graph.onnx")
        result = _engine(folder / "graph.onnx", folder, order.target, order.precision, order.threads, noted)
        manifest = _manifest(source, order, result, calibration, noted.notes)
        facts["build_s"] = time.perf_counter() - started
        if order.profile:
            reference = None
            if compare:
                built = _engine(float_graph, fp32, order.target, Precision.FP32, order.threads, noted)
                reference = _manifest(source, _float(order), built, None, noted.notes)
            _measure(folder, manifest, fp32, reference, engine_backend, inputs, facts, noted, order.threads)
    seal(folder, manifest)


def _float(order: Order) -> Order:
    return Order(**{**order.__dict__, "precision": Precision.FP32})


def _engine(
    graph: Path, folder: Path, target: str, precision: Precision, threads: int, progress: Progress
) -> BuildResult:
    with progress.stage(f"building the {str(precision).upper()} engine for {target}"):
        return engine_from_graph(graph, folder, target, BuildOptions(precision=precision, threads=threads))


def _quantize(
    folder: Path, source: ModelSource, order: Order, engine_backend: Backend, noted: _Noted, facts: dict[str, Any]
) -> CalibrationInfo | None:
    """Turns the source's graph into a quantized one, in place."""
    if source.quantized:
        noted.note("the graph is quantized already: its own scales are kept, nothing was calibrated")
        return None
    table = _calibrate(source, order, noted)
    keep = (*(source.quantize.keep_float if source.quantize else ()), *order.keep_float)
    with noted.stage("quantizing"):
        plan = quantized_graph(
            source.graph, table, engine_backend.scheme(), keep_float=keep, keep_heads=source.quantize is None
        )
    write_table(table, folder / "calibration.json")
    facts.update(
        calibration_set=table.set,
        calibration_method=table.method,
        calibration_images=table.images,
        calibration_skipped=len(table.skipped),
        kept_in_float=len(plan.skipped),
    )
    return CalibrationInfo(set=table.set, method=table.method, images=table.images, skipped=len(table.skipped))


def _calibrate(source: ModelSource, order: Order, noted: _Noted) -> CalibrationTable:
    policy = source.quantize
    method = order.method or (policy.method if policy else "") or DEFAULT_METHOD
    samples = _calibration_set(source, order, noted)
    digests = {
        "graph_digest": graph_digest(source.graph),
        "set_digest": f"{samples.digest if samples else RANDOM_INPUTS} {source.preprocess}",
        "method": method,
    }
    cache = weights_cache()
    if table := cached_table(cache, **digests):
        with noted.stage(f"using the ranges of an earlier calibration on the same {table.images} inputs"):
            return table
    collected = collect_statistics(
        source.graph,
        observed_tensors(source.graph),
        samples.feeds(source.inputs, source.preprocess) if samples else _random_feeds(source),
        method=method,
        total=len(samples) if samples else RANDOM_INPUTS,
        threads=order.threads,
        progress=noted,
    )
    skipped = tuple(samples.skipped) if samples else ()
    for broken in skipped:
        noted.note(f"calibration skipped {broken}")
    table = CalibrationTable(
        **digests,
        set=samples.name if samples else "random numbers",
        images=collected.inputs,
        skipped=skipped,
        ranges=ranges_from_statistics(collected.statistics, method),
    )
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
        keep_table(table, cache)
    return table


def _calibration_set(source: ModelSource, order: Order, noted: _Noted) -> CalibrationSet | None:
    """The set to calibrate on; None where there is none for such inputs, and random numbers have to do."""
    if order.calib is not None:
        return calibration_set(order.calib, limit=order.calib_images)
    if source.preprocess is None:
        noted.note(
            f"calibrated on {RANDOM_INPUTS} random inputs: INT8's latency is real, its accuracy is not. "
            "Give real ones with --calib DIR (.npy or .npz files)"
        )
        return None
    name = source.quantize.calibration if source.quantize else DEFAULT_SET
    samples = calibration_set(name, limit=order.calib_images)
    noted.note(
        f"calibrated on the shipped set '{name}' of {len(samples)} pictures; "
        "pictures of your own task (--calib DIR) keep more accuracy"
    )
    return samples


def _random_feeds(source: ModelSource) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    for index in range(RANDOM_INPUTS):
        generator = np.random.default_rng(index)
        feeds = {}
        for spec in source.inputs:
            sizes = tuple(int(size) for size in spec.shape)
            if np.dtype(spec.dtype).kind == "f":
                feeds[spec.name] = generator.standard_normal(sizes).astype(spec.dtype)
            else:  # 0 and 1 are valid indices, masks and flags everywhere
                feeds[spec.name] = generator.integers(0, 2, sizes).astype(spec.dtype)
        yield f"random {index}", feeds


def _sample_inputs(source: ModelSource, order: Order, noted: _Noted) -> list[dict[str, np.ndarray]]:
    """A few inputs on which the engine is compared with FP32."""
    samples = _calibration_set(source, order, _Noted(Silent()))
    feeds = samples.feeds(source.inputs, source.preprocess) if samples else _random_feeds(source)
    return [arrays for (_, arrays), _ in zip(feeds, range(COMPARED_INPUTS), strict=False)]


def _measure(
    folder: Path,
    manifest: Manifest,
    fp32: Path,
    reference: Manifest | None,
    engine_backend: Backend,
    inputs: Sequence[dict[str, np.ndarray]],
    facts: dict[str, Any],
    noted: _Noted,
    threads: int,
) -> None:
    """Latency of both engines, one after the other, and how far their answers are apart."""
    reports: dict[str, LatencyReport] = {}
    answers: list[list[dict[str, np.ndarray]]] = []
    places = [(fp32, reference), (folder, manifest)] if reference is not None else [(folder, manifest)]
    for place, described in places:
        assert described is not None
        described = seal(place, described)
        with Session(engine_backend.load(place / described.engine, threads=threads), described) as session:
            with noted.stage(f"measuring {str(described.precision).upper()}"):
                reports[str(described.precision)] = measure(session, runs=_runs(session), warmup=3, threads=threads)
            answers.append([session.run(arrays) for arrays in inputs])
    if len(answers) == 2 and inputs:
        facts["sqnr_db"] = {
            name: _sqnr_db([a[name] for a in answers[0]], [b[name] for b in answers[1]]) for name in answers[0][0]
        }
    (folder / "manifest.json").unlink()
    write_build_report(folder, reports, facts)


def _runs(session: Session) -> int:
    """As many as fit into two seconds, but enough for percentiles."""
    started = time.perf_counter()
    session.run(
        {
            spec.name: np.zeros([d if isinstance(d, int) else 1 for d in spec.shape], spec.dtype)
            for spec in session.inputs
        }
    )
    return int(min(MOST_RUNS, max(FEWEST_RUNS, MEASURE_S / (time.perf_counter() - started))))


def _sqnr_db(reference: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> float | None:
    """Signal to quantization noise of an output over all inputs; None where there is no noise or no signal."""
    signal = sum(float(np.square(a.astype(np.float64)).sum()) for a in reference)
    noise = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(reference, got, strict=True))
    return round(10 * float(np.log10(signal / noise)), 2) if signal > 0 and noise > 0 else None


def _manifest(
    source: ModelSource,
    order: Order,
    result: BuildResult,
    calibration: CalibrationInfo | None,
    notes: Sequence[str],
) -> Manifest:
    return Manifest(
        format=FORMAT,
        edgekit=edgekit.__version__,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        name=source.name,
        task=source.task,
        backend=order.target,
        backend_version=result.backend_version,
        precision=order.precision,
        layers=result.layers,
        engine=result.engine,
        machine=this_machine(),
        source=source.origin,
        inputs=source.inputs,
        outputs=output_specs(source.graph),
        preprocess=source.preprocess,
        postprocess=source.postprocess,
        labels=source.labels,
        calibration=calibration,
        rebuild=order.rebuild,
        notes=tuple(notes),
    )


def _precision(name: str) -> Precision:
    known = [str(precision) for precision in BUILDABLE]
    if name not in known:
        raise UsageError(f"unknown precision '{name}': expected {' or '.join(known)}", hint=nearest(name, known))
    return Precision(name)


def _needed_bytes(source: ModelSource) -> int:
    """Room for the graph and engines of both precisions, roughly."""
    weights = sum(value.const_value.nbytes for value in source.graph.graph.initializers.values() if value.const_value)
    return 3 * weights


def _command(model: Any, options: Mapping[str, Any]) -> str:
    """The command line that asks for the same; nothing for a module that was handed over as an object."""
    if not isinstance(model, (str, Path)):
        return ""
    words = ["edgekit", "build", str(model), f"--{options['precision']}"]
    for name in ("target", "weights", "calib", "calib_method", "calib_images", "output", "opset"):
        if options[name] is not None:
            words += [f"--{name.replace('_', '-')}", str(options[name])]
    for name in ("seed", "threads"):
        if options[name]:
            words += [f"--{name}", str(options[name])]
    for pattern in options["keep_float"]:
        words += ["--keep-float", pattern]
    if options["shape"] is not None:
        words += ["--shape", "x".join(map(str, options["shape"]))]
    for name, sizes in (options["input"] or {}).items():
        words += ["--input", f"{name}:{'x'.join(map(str, sizes))}".removeprefix(":")]
    if options["preprocess"] is not None:
        for name, value in msgspec.to_builtins(options["preprocess"]).items():
            words += [
                "--preprocess",
                f"{name}={','.join(map(str, value)) if isinstance(value, (list, tuple)) else value}",
            ]
    return shlex.join(words if options["profile"] else [*words, "--no-profile"])
