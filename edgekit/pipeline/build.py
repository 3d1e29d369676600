"""The order of the stages: the one module that sees them all."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

import edgekit
from edgekit.config import EngineOptions, Order, command_from_order, given_fields, name_of
from edgekit.engine.backend import BuildResult, backend, default_target
from edgekit.engine.builder import engine_from_graph
from edgekit.engine.bundle.manifest import (
    FORMAT,
    CalibrationInfo,
    FileInfo,
    Manifest,
    seal,
    this_machine,
    write_bundle,
)
from edgekit.errors import AccuracyError, BackendUnavailable, EngineMismatch
from edgekit.measure.compare import BuiltEngine, compare_engines, noise_db
from edgekit.pipeline.compile import build_options
from edgekit.pipeline.validate import precision_from_name, require_buildable, shape_from_sizes, size_from_value
from edgekit.progress import Advance, Progress, Silent
from edgekit.recipe.schema import Preprocess
from edgekit.report.write import write_build_report
from edgekit.specs import Precision
from edgekit.storage import cache_folder, require_room

if TYPE_CHECKING:
    from edgekit.pipeline.calibrate import Samples
    from edgekit.pipeline.load_model import LoadedModel

__all__ = ["build"]

COMPARED_INPUTS = 4
JUDGED_INPUTS = 2
LEEWAY_DB = 10.0
"""How much lower the signal to noise may be at the least or the greatest size, where it is below 0 dB."""
HALF_IMAGES = 8
"""Half precision only has to know by how much a range overflows, not where it ends."""


def build(
    model: Any,
    *,
    precision: str = "int8",
    target: str | None = None,
    weights: str | Path | None = None,
    calib: str | Path | None = None,
    calib_method: str | None = None,
    calib_images: int | None = None,
    calib_column: str | None = None,
    keep_float: Sequence[str] = (),
    output: str | Path | None = None,
    shape: Sequence[int | Sequence[int]] | None = None,
    input: Mapping[str, Sequence[int | Sequence[int]]] | None = None,
    preprocess: Preprocess | Mapping[str, Any] | None = None,
    opset: int | None = None,
    seed: int = 0,
    threads: int = 0,
    profile: bool = True,
    batch: int | Sequence[int] | None = None,
    half_io: bool = False,
    plan_only: bool = False,
    engine: EngineOptions | Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Compiles a model into an engine.

    Args:
        model: a recipe's name or file, an ONNX file, ``package.module:factory``, or an ``nn.Module``.
        precision: ``int8``, ``fp16``, ``bf16`` or ``fp32``; which of them, the target says.
        target: the backend; where none is named, ``tensorrt`` if it and a GPU are here, else ``cpu``.
        weights: a Darknet, PyTorch or safetensors file, or a set that the recipe publishes, such as ``coco``.
        calib: pictures to calibrate INT8 on: a folder, a manifest, or the name of a shipped set.
        calib_method: ``minmax``, ``percentile``, ``entropy`` or ``mse``.
        calib_images: calibrate on at most so many.
        calib_column: of a CSV table to calibrate on, the header of the column to be foretold; the last one if None.
        keep_float: patterns of names of graph nodes that stay in float.
        output: the bundle's folder; ``engines/NAME-PRECISION-TARGET`` if None.
        shape: ``(H, W)`` of the picture, or all sizes of the first input.
        input: shapes of a module's or ONNX file's inputs by name; the name ``""`` stands for the first. Those of a
            module are float32, unless their names end in another element type: ``ids:int64``. Here and in ``shape``,
            three numbers in the place of one, least, usual and greatest, leave a dimension open, to be chosen between
            them at run time: ``(1, 3, 48, (32, 320, 2048))``.
        preprocess: how pictures become inputs: all of it, or the fields that replace the recipe's, or what is
            guessed: ``{"color": "bgr"}``.
        opset: version of ONNX's operators to export to.
        seed: for random weights.
        threads: that the engine is to run on; 0 leaves it to the backend.
        profile: measure the engine, and FP32 beside it.
        batch: how many inputs at once: a number, or the least, usual and greatest one, chosen between at run time.
            The same as the first dimension of all inputs, where ``input`` and ``shape`` have 1.
        half_io: inputs and outputs are in half precision too, where the engine is.
        plan_only: leave the engine itself to `edgekit compile`, on the machine that it is for.
        engine: what builders for GPUs are told besides: `EngineOptions`, or some of its fields by name.
        progress: is told of every stage.

    Returns:
        The bundle's folder.

    Raises:
        EdgeKitError: what `edgekit.errors` lists; nothing half-built is left behind.
    """
    order = Order(
        model=model,
        precision=precision_from_name(precision),
        target=default_target() if target is None else target,
        weights=None if weights is None else str(weights),
        calib=None if calib is None else str(calib),
        calib_method=calib_method,
        calib_images=calib_images,
        calib_column=calib_column,
        keep_float=tuple(keep_float),
        output=None if output is None else Path(output),
        shape=None if shape is None else shape_from_sizes(shape, "--shape"),
        inputs={name: shape_from_sizes(sizes, f"--input {name}".rstrip()) for name, sizes in (input or {}).items()},
        preprocess=given_fields(preprocess) if preprocess else None,
        opset=opset,
        seed=seed,
        threads=threads,
        profile=profile,
        batch=None if batch is None else size_from_value(batch, "--batch"),
        half_io=half_io,
        plan_only=plan_only,
        engine=EngineOptions.of(engine),
    )
    name = name_of(model)
    require_buildable(order)
    place = order.output or Path("engines") / f"{name}-{order.precision}-{order.target}"
    with write_bundle(place) as folder:
        _fill(folder, place, order, _Notes(progress or Silent()))
    return place


class _Notes:
    """Passes progress on, and remembers the notes for the manifest."""

    def __init__(self, to: Progress) -> None:
        self._to = to
        self.texts: list[str] = []

    def stage(self, title: str, *, total: float | None = None, unit: str = "") -> AbstractContextManager[Advance]:
        return self._to.stage(title, total=total, unit=unit)

    def note(self, text: str) -> None:
        if text not in self.texts:
            self.texts.append(text)
            self._to.note(text)


def _fill(folder: Path, place: Path, order: Order, notes: _Notes) -> None:
    """Goes through the stages, in the staging folder of the bundle at ``place``."""
    from edgekit.pipeline.load_model import load_model

    started = time.perf_counter()
    source = load_model(order, notes)
    require_room(place, _needed_bytes(source, order))
    facts: dict[str, Any] = {"macs": source.stats.macs, "export_error": source.export_error}
    measured_here = order.profile and _runs_here(order, notes)
    with tempfile.TemporaryDirectory(prefix=".float-", dir=folder) as scratch:
        typed = Typed()
        if source.quantized:
            notes.note("the model came quantized and is built as it is: nothing was calibrated or kept in float")
        elif order.precision is Precision.INT8:
            typed = _to_int8(folder, Path(scratch), source, order, notes, measured_here)
        elif order.precision is not Precision.FP32:
            typed = _to_half(Path(scratch), source, order, notes, measured_here)
        if typed.sqnr_db:
            _refuse_noise(typed.sqnr_db, order.target)
            _judge_ends(source, typed.sqnr_db, typed.min_max_db, order.target, notes)
            worst = min(typed.sqnr_db, key=lambda name: typed.sqnr_db[name])
            notes.note(f"INT8's signal to noise, computed on the processor: {typed.sqnr_db[worst]:.1f} dB at '{worst}'")
        engine = _engine(folder, source, order, notes, typed.calibration)
        facts |= {**typed.facts, "build_s": time.perf_counter() - started}
        if measured_here and _is_for_here(engine.manifest, notes):
            engines = [*typed.reference, engine]
            measured = compare_engines(engines, typed.inputs, typed.min_max, threads=order.threads, progress=notes)
            _refuse_noise(measured.sqnr_db, order.target)
            _judge_ends(source, measured.sqnr_db, measured.min_max_db, order.target, notes)
            write_build_report(folder, measured.reports, {**facts, "sqnr_db": measured.sqnr_db or None})
    # What was measured may have left something to tell.
    seal(folder, msgspec.structs.replace(engine.manifest, notes=tuple(notes.texts)))


def _judge_ends(
    source: LoadedModel,
    usual_db: Mapping[str, float],
    min_max_db: Sequence[Mapping[str, float]],
    target: str,
    notes: _Notes,
) -> None:
    """`_refuse_noise` for the least and the greatest sizes that the inputs may have.

    Where an output is hardly out of the noise at the usual size, as a detector's that finds nothing in the pictures
    that it is shown, it is told of, and refused only if it is far worse at an end.
    """
    floor_db = min(0.0, min(usual_db.values(), default=0.0) - LEEWAY_DB)
    for specs, sqnr_db in zip(source.min_max.sizes, min_max_db, strict=False):
        given = f" given {'; '.join(map(str, specs))}"
        _refuse_noise(sqnr_db, target, given, floor_db)
        worst = min(sqnr_db, key=lambda name: sqnr_db[name], default="")
        if worst and sqnr_db[worst] < 0.0:
            notes.note(f"INT8's signal to noise{given}: {sqnr_db[worst]:.1f} dB at '{worst}', which is lost in noise")


def _refuse_noise(sqnr_db: Mapping[str, float], target: str, given: str = "", floor_db: float = 0.0) -> None:
    """Raises `AccuracyError` where an output of the INT8 engine is further from FP32's than zeros would be."""
    worst = min(sqnr_db, key=lambda name: sqnr_db[name], default="")
    if worst and sqnr_db[worst] < floor_db:
        raise AccuracyError(
            f"output '{worst}' of the INT8 engine for {target}{given} is lost in noise: expected a signal to noise "
            f"of more than {floor_db:.0f} dB against FP32, got {sqnr_db[worst]:.1f} dB",
            hint="calibrate on inputs of your own task (--calib DIR), try another --calib-method, "
            "or keep sensitive layers in float (--keep-float PATTERN)",
        )


class Typed(NamedTuple):
    """What typing the source's graph in another precision leaves behind.

    Attributes:
        calibration: for the manifest.
        facts: for the report.
        reference: the float engine to compare with, if anything is to be measured.
        inputs: what the two are compared on.
        min_max: the same, of the least and the greatest sizes that the inputs may have.
        sqnr_db: signal to noise of each output, where it was computed on the processor.
        min_max_db: the same for each of ``min_max``.
    """

    calibration: CalibrationInfo | None = None
    facts: Mapping[str, Any] = {}
    reference: tuple[BuiltEngine, ...] = ()
    inputs: Sequence[Mapping[str, np.ndarray]] = ()
    min_max: Sequence[Sequence[Mapping[str, np.ndarray]]] = ()
    sqnr_db: Mapping[str, float] = {}
    min_max_db: Sequence[Mapping[str, float]] = ()


def _runs_here(order: Order, notes: _Notes) -> bool:
    """Whether the engine can be measured; says why where it cannot."""
    if order.plan_only:
        return False
    try:
        # Capabilities are known when the engine is built; a device of any is all that is asked for now.
        backend(order.target).require_device(())
    except BackendUnavailable as e:
        notes.note(f"the engine was not measured: {e.message}")
        return False
    return True


def _is_for_here(manifest: Manifest, notes: _Notes) -> bool:
    """Whether the engine, which may have been built for another GPU, runs on the one that is here."""
    try:
        backend(manifest.backend).require_device(manifest.compute_capabilities)
    except EngineMismatch as e:
        notes.note(f"the engine was not measured: {e.message}")
        return False
    return True


def _to_half(scratch: Path, source: LoadedModel, order: Order, notes: _Notes, measured_here: bool) -> Typed:
    """Types the source's graph in half precision, in place; see `_to_int8`."""
    from edgekit.pipeline.calibrate import calibrated, feeds_at_min_max, samples_for
    from edgekit.pipeline.precision import checked_half

    few = dataclasses.replace(order, calib_images=order.calib_images or HALF_IMAGES, calib_method="minmax")
    # What is shown to the model only tells which ranges overflow: nothing that a user has to be told of.
    samples = samples_for(source, few, Silent())
    table = calibrated(source, samples, few, cache_folder(), notes)
    reference = (_reference(scratch, source, order, notes),) if measured_here else ()
    inputs = _few(samples, source)
    ends = feeds_at_min_max(inputs, source)
    with notes.stage(f"typing the graph in {str(order.precision).upper()}"):
        cast, error = checked_half(
            source, order, table.ranges, inputs[:JUDGED_INPUTS], [feeds[:JUDGED_INPUTS] for feeds in ends]
        )
    facts = {"layers_kept_in_float": len(cast.kept)}
    if not measured_here:
        notes.note(f"{str(order.precision).upper()}'s largest relative error, computed on the processor: {error:.1e}")
    return Typed(None, facts, reference, inputs, ends)


def _reference(scratch: Path, source: LoadedModel, order: Order, notes: _Notes) -> BuiltEngine:
    """The float engine to compare with."""
    return _engine(scratch, source, dataclasses.replace(order, precision=Precision.FP32), notes)


def _few(samples: Samples, source: LoadedModel) -> list[dict[str, np.ndarray]]:
    feeds = samples.feeds(source.inputs, source.preprocess, source.shapes)
    return [arrays for _, arrays in itertools.islice(feeds, COMPARED_INPUTS)]


def _to_int8(
    folder: Path, scratch: Path, source: LoadedModel, order: Order, notes: _Notes, measured_here: bool
) -> Typed:
    """Quantizes the source's graph in place; a float engine, if one is wanted, is built in ``scratch`` before that."""
    from edgekit.pipeline.calibrate import calibrated, feeds_at_min_max, outputs_of, quantize, require_int8, samples_for
    from edgekit.quantize.calibrate.table import write_table
    from edgekit.quantize.half.cast import cast_graph

    scheme = backend(order.target).scheme()
    require_int8(source, order, scheme)
    samples = samples_for(source, order, notes)
    table = calibrated(source, samples, order, cache_folder(), notes)
    write_table(table, folder / "calibration.json")
    reference = (_reference(scratch, source, order, notes),) if measured_here else ()
    # An engine that cannot run here is judged by its graph, which ONNX Runtime can run.
    judged = backend(order.target).on_gpu and not measured_here
    inputs = _few(samples, source)[: JUDGED_INPUTS if judged else None] if judged or measured_here else []
    ends = feeds_at_min_max(inputs, source)
    exact = [outputs_of(source.graph, feeds) for feeds in (inputs, *ends)] if judged else []
    with notes.stage("quantizing"):
        kept = quantize(source, order, scheme, table)
        if scheme.rest is not Precision.FP32:
            # What is kept from integers is half too: one layer in float32 between them costs more than they gain.
            cast_graph(source.graph, scheme.rest, table.ranges, io=order.half_io)
    sqnr_db: dict[str, float] = {}
    min_max_db: list[dict[str, float]] = []
    if judged:
        with notes.stage("checking the quantized graph on the processor"):
            got = [outputs_of(source.graph, feeds) for feeds in (inputs, *ends)]
        sqnr_db, *min_max_db = [noise_db(a, b) for a, b in zip(exact, got, strict=True)]
    calibration = CalibrationInfo(set=table.set, method=table.method, images=table.images, skipped=len(table.skipped))
    facts = {f"calibration_{name}": value for name, value in msgspec.to_builtins(calibration).items()}
    return Typed(calibration, {**facts, "layers_kept_in_float": kept}, reference, inputs, ends, sqnr_db, min_max_db)


def _engine(
    folder: Path, source: LoadedModel, order: Order, notes: _Notes, calibration: CalibrationInfo | None = None
) -> BuiltEngine:
    """Builds the engine of the source's graph as it is now, with the graph beside it."""
    from edgekit.graph.file import output_specs, save_graph

    graph = folder / "graph.onnx"
    save_graph(source.graph, graph)
    if order.plan_only:
        result = BuildResult(engine="", files=(), layers={}, backend_version="")
    else:
        options = build_options(order.target, order.precision, order.engine, source.shapes, threads=order.threads)
        with notes.stage(f"building the {str(order.precision).upper()} engine for {order.target}"):
            result = engine_from_graph(graph, folder, order.target, options)
    for note in result.notes:
        notes.note(note)
    manifest = Manifest(
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
        compute_capabilities=result.compute_capabilities,
        shapes=dict(source.shapes),
        source=source.origin,
        inputs=source.inputs,
        outputs=output_specs(source.graph),
        preprocess=source.preprocess,
        postprocess=source.postprocess,
        labels=source.labels,
        calibration=calibration,
        rebuild=command_from_order(order),
        notes=tuple(notes.texts),
        # What is measured is weighed too; hashes come when the bundle is sealed.
        files={name: FileInfo((folder / name).stat().st_size, "") for name in result.files},
    )
    return BuiltEngine(folder, manifest)


def _needed_bytes(source: LoadedModel, order: Order) -> int:
    """Room for graphs and engines, roughly: each holds the weights, those in INT8 a quarter of them."""
    in_place = 2 * source.stats.weight_bytes
    if source.quantized or order.precision is Precision.FP32:
        return in_place
    return in_place // 4 + (in_place if order.profile else 0)
