"""Finds where an engine or a quantized graph loses its numbers, layer by layer, and the smallest graph that does."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from edgekit.arguments import argument
from edgekit.config import BackendOptions, BuildConfig, CalibrationConfig
from edgekit.data.calibration.calibration_set import calibration_set
from edgekit.data.calibration.given_samples import given_samples
from edgekit.data.calibration.random_inputs import RandomInputs
from edgekit.device.cpu import cpu
from edgekit.engine.backend import BuildOptions, backend, build_options_of
from edgekit.engine.bundle.checks import check_files
from edgekit.engine.bundle.manifest import GRAPH, Manifest, read_manifest
from edgekit.errors import BackendUnavailable, EngineMismatch, UsageError
from edgekit.graph.given_selection import GivenSelection
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.operators import SELECTING
from edgekit.graph.passes import InferShapes, optimize
from edgekit.measure.noise_report import NoiseReport, SmallestGraph
from edgekit.option.objects import CalibrationData, SupportsArray
from edgekit.pipeline.choose_ranges import calibrated_graph
from edgekit.pipeline.inputs import DEFAULT_SET, Samples, model_inputs
from edgekit.pipeline.load_model import load_model
from edgekit.pipeline.reference import reference_outputs
from edgekit.pipeline.smallest import smallest_graph, without_activation_pairs
from edgekit.pipeline.validate import build_config, calibration_config, require_buildable
from edgekit.pipeline.values import engine_values, graph_values
from edgekit.pipeline.verify import Verifier
from edgekit.progress import KeptNotes, Progress, Silent
from edgekit.quantize.compare import LIMITS, LayerNoise
from edgekit.quantize.half.check import rounding_graph
from edgekit.quantize.layer_noise import (
    Values,
    first_collapse,
    layer_noise,
    nodes_on_integers,
    observed_values,
)
from edgekit.recipe.schema import Preprocess
from edgekit.specs import Precision

__all__ = ["debug"]

COMPARED = 2
"""Number of inputs that layers are compared on."""

OWN_ARGUMENTS = ("against", "graph_only", "save", "progress")
"""Arguments of `debug` that `edgekit.build` does not have, or uses otherwise."""

Arrays: TypeAlias = "Mapping[str, np.ndarray]"


def debug(
    model: Any,
    *,
    precision: Literal["int8", "fp16", "bf16", "fp32"] = "int8",
    target: Literal["cpu", "openvino", "tensorrt", "tensorrt-rtx"] | None = None,
    against: str | Path | None = None,
    graph_only: bool = False,
    save: str | Path | None = None,
    weights: str | Path | None = None,
    labels: str | Path | None = None,
    calib: str | Path | SupportsArray | Iterable[Any] | Callable[[], Any] | None = None,
    calib_method: Literal["minmax", "percentile", "entropy", "mse"] | None = None,
    calib_images: int | None = None,
    calib_column: str | None = None,
    keep_float: Sequence[str] = (),
    quantize_heads: bool = False,
    noise_budget: int = 10,
    dynamic: bool = False,
    static: bool = False,
    weights_only: bool = False,
    shape: Sequence[int | Sequence[int]] | None = None,
    input: SupportsArray | Mapping[str, Any] | Sequence[Any] | None = None,
    preprocess: Preprocess | Mapping[str, Any] | None = None,
    opset: int | None = None,
    seed: int = 0,
    threads: int = 0,
    head: str | None = None,
    head_option: Mapping[str, Any] | None = None,
    no_head: bool = False,
    batch: int | Sequence[int] | None = None,
    attention: Literal["auto", "off", "native", "edgekit", "edgekit-int8"] = "auto",
    half_io: bool = False,
    engine: BackendOptions | Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> NoiseReport:
    """Compares the values of a model layer by layer in two forms, for the same inputs.

    Args:
        model: a model, as in `edgekit.build`, or the folder of an engine.
        precision: the precision to look into; an engine has its own.
        target: the backend; default as in `edgekit.build`; an engine has its own.
        against: what computes the right values. For a model: a backend, whose FP32 engine is used; default: the float
            graph in ONNX Runtime without optimizations, which is compared with the original model first. For an
            engine: the ONNX file that it was built from; default: its own graph in ONNX Runtime.
        graph_only: look at the typed graph in ONNX Runtime, and not at an engine.
        save: folder for the smallest graph that fails, with its inputs and the right output.
        weights: as in `edgekit.build`, as are those that follow; an engine takes ``calib`` alone.
        labels: names of classes.
        calib: images or arrays to calibrate and compare on.
        calib_method: how ranges are chosen.
        calib_images: calibrate on at most this many.
        calib_column: target column of a CSV table.
        keep_float: name patterns of nodes that stay in float.
        quantize_heads: quantize a detector's last layers too.
        noise_budget: percent of the multiply-accumulates that may move from INT8 to float.
        dynamic: quantize the inputs of matrix products and LSTMs at run time.
        static: calibrate ranges, which is what is looked into unless ``dynamic`` or ``weights_only`` is set.
        weights_only: store the weights of matrix products in 8 bits.
        shape: shape of the image.
        input: shapes or values of the inputs by name.
        preprocess: how images become inputs.
        opset: ONNX opset to export to.
        seed: seed of random weights.
        threads: threads that the engine runs on.
        head: family of a detector's outputs.
        head_option: parameters of ``head``.
        no_head: keep the outputs of a detector as arrays.
        batch: batch size, or its range.
        attention: how attention is computed.
        half_io: half precision for inputs and outputs too.
        engine: options of the target's backend.
        progress: receives stages.

    Raises:
        EdgeKitError: as `edgekit.build`, but no error for noise.
    """
    given = {name: value for name, value in locals().items() if name not in OWN_ARGUMENTS}
    notes = KeptNotes(progress or Silent())
    if isinstance(model, (str, Path)) and Path(model).is_dir():
        data = calibration_config(calib=calib)
        with tempfile.TemporaryDirectory() as scratch:
            case = _case_of_engine(Path(model), against, data, notes, Path(scratch), graph_only=graph_only)
    else:
        config = build_config(**given)
        require_buildable(config)
        right = None if against is None else str(against)
        with tempfile.TemporaryDirectory() as scratch:
            case = _case_of_model(config, right, notes, Path(scratch), graph_only=graph_only)
    return _report(case, notes, None if save is None else Path(save))


@dataclass(frozen=True, kw_only=True)
class _Case:
    """Two forms of a model.

    Attributes:
        name: the model's name.
        reference: what computes the right values, for the report.
        right: the graph whose values are right; ``right_values`` computes them.
        graph: the typed graph.
        integers: names of its nodes that compute on integers.
        scaled: its channels may be scaled against those of ``right``.
        target: the backend.
        options: how an engine is built from ``graph``.
        on_engine: an engine computes the other values, not the graph in ONNX Runtime.
        feeds: the inputs.
        outputs_db: see `NoiseReport`.
    """

    name: str
    reference: str
    right: ir.Model
    right_values: Values
    graph: ir.Model
    integers: frozenset[str]
    scaled: bool
    target: str
    options: BuildOptions
    on_engine: bool
    feeds: Sequence[Arrays]
    outputs_db: Mapping[str, float]

    def values(self, graph: ir.Model, feeds: Sequence[Arrays]) -> Values:
        """Returns a function that computes the other values, or those of a part of the graph."""
        return engine_values(graph, self.target, self.options, feeds) if self.on_engine else graph_values(graph, feeds)


def _case_of_model(
    config: BuildConfig, against: str | None, notes: KeptNotes, scratch: Path, *, graph_only: bool
) -> _Case:
    target, precision = config.target, config.target.precision
    model = load_model(config.model, notes)
    inputs = model_inputs(model, config.calibration, target, notes, scratch)
    reference = reference_outputs(model, inputs, notes)
    verifier = Verifier(
        model=model,
        inputs=inputs,
        reference=reference,
        target=target,
        allow_noise=True,
        progress=notes,
    )
    verifier.verify_graph()
    model.original.close()
    _, typed = calibrated_graph(model, inputs, reference, config.calibration, target, notes)
    on_engine = not graph_only and _runs(target.target, notes)
    graph = typed.graph if on_engine else rounding_graph(typed.graph)
    right, graph, feeds = _same_rows(model.graph, graph, inputs.feeds[:COMPARED], notes)
    right_values = graph_values(right, feeds)
    if against is not None:
        plain = BuildOptions(precision=Precision.FP32, threads=target.threads, shapes=dict(model.shapes))
        backend(against).require_device(())
        right_values = engine_values(right, against, plain, feeds)
    return _Case(
        name=model.name,
        reference=f"the FP32 engine for {against}" if against else "the float graph in ONNX Runtime",
        right=model.graph,
        right_values=right_values,
        graph=graph,
        integers=nodes_on_integers(typed.graph.graph),
        scaled=precision is Precision.INT8 and typed.kept_in_float is not None,
        target=target.target,
        options=build_options_of(target, model.shapes),
        on_engine=on_engine,
        feeds=feeds,
        outputs_db=verifier.found,
    )


def _case_of_engine(
    place: Path,
    against: str | Path | None,
    data: CalibrationConfig,
    notes: KeptNotes,
    scratch: Path,
    *,
    graph_only: bool,
) -> _Case:
    manifest = read_manifest(place)
    if GRAPH not in manifest.files:
        raise EngineMismatch(f"{place}: expected '{GRAPH}', got a manifest that does not list it")
    check_files(place, manifest, [GRAPH])
    graph = ir.load(place / GRAPH)
    InferShapes()(graph)
    right, reference = graph, "its own graph in ONNX Runtime"
    if against is not None:
        right = optimize(graph_from_onnx(Path(against)))
        reference = f"{Path(against).name} in ONNX Runtime"
    elif graph_only:
        raise UsageError(
            f"{argument('graph_only', True)}: an engine's graph would be compared with itself",
            hint=f"add {argument('against', like='FILE.onnx')}, or leave it out",
        )
    samples = _samples_for(manifest, data.calib, notes, scratch)
    found = samples.feeds(manifest.inputs, manifest.preprocess, manifest.shapes)
    on_engine = not graph_only and _runs(manifest.backend, notes)
    other = graph if on_engine else rounding_graph(graph)
    given, other, feeds = _same_rows(right, other, [arrays for _, arrays in islice(found, COMPARED)], notes)
    options = BuildOptions(
        precision=manifest.precision,
        shapes=manifest.shapes,
        attention=manifest.options.get("attention", "auto"),
        engine=manifest.engine_options,
    )
    return _Case(
        name=manifest.name,
        reference=reference,
        right=right,
        right_values=graph_values(given, feeds),
        graph=other,
        integers=nodes_on_integers(graph.graph),
        scaled=against is not None and manifest.precision is Precision.INT8,
        target=manifest.backend,
        options=options,
        on_engine=on_engine,
        feeds=feeds,
        outputs_db=manifest.verification.sqnr_db if manifest.verification else {},
    )


def _samples_for(manifest: Manifest, calib: str | CalibrationData | None, notes: KeptNotes, scratch: Path) -> Samples:
    if isinstance(calib, CalibrationData):
        return given_samples(
            calib.value,
            manifest.inputs,
            manifest.preprocess,
            manifest.shapes,
            limit=COMPARED,
            folder=scratch,
            progress=notes,
        )
    if calib or manifest.preprocess is not None:
        return calibration_set(calib or DEFAULT_SET, limit=COMPARED)
    return RandomInputs(COMPARED)


def _same_rows(
    right: ir.Model, graph: ir.Model, feeds: Sequence[Arrays], notes: KeptNotes
) -> tuple[ir.Model, ir.Model, Sequence[Arrays]]:
    """Returns both graphs with the rows that ``right`` selects as inputs, so that all that follows can be compared.

    Without rows that are selected by value, all stay as they are, as they do if the graphs select by different nodes.
    """
    if not feeds or not GivenSelection.fits(right):
        return right, graph, feeds
    selection = GivenSelection(right, feeds, threads=cpu().compute_threads)
    if not selection.selects_in(graph):
        return right, graph, feeds
    kinds = " and ".join(sorted({node.op_type for node in right.graph if node.op_type in SELECTING}))
    notes.note(f"what follows {kinds} is compared in the rows that the reference selects, which are given to both")
    return selection.given_to(right), selection.given_to(graph), selection.feeds


def _runs(target: str, notes: KeptNotes) -> bool:
    try:
        backend(target).require_device(())
    except BackendUnavailable as e:
        notes.note(f"no engine was compared, but its graph: {e.message}")
        return False
    return True


def _report(case: _Case, notes: KeptNotes, save: Path | None) -> NoiseReport:
    with notes.stage("comparing the layers"):
        layers = layer_noise(
            case.right.graph,
            case.graph.graph,
            case.right_values,
            case.values(case.graph, case.feeds),
            integers=case.integers,
            scaled=case.scaled,
            fused=case.on_engine,
        )
    limit_db = LIMITS[case.options.precision].warned_db
    first = first_collapse(layers, limit_db)
    smallest = None
    if first is not None:
        with notes.stage("looking for the smallest graph that fails"):
            smallest = _smallest(case, first, limit_db, save)
    return NoiseReport(
        name=case.name,
        target=case.target,
        precision=case.options.precision,
        reference=case.reference,
        compared="engine" if case.on_engine else "graph",
        limit_db=limit_db,
        outputs_db=dict(case.outputs_db),
        layers=tuple(layers),
        first=first,
        smallest=smallest,
        notes=tuple(notes.notes),
    )


def _smallest(case: _Case, failing: LayerNoise, limit_db: float, save: Path | None) -> SmallestGraph:
    # What an engine computes is compared with its own graph. A graph that is lost by itself is compared with the same
    # graph without rounding its activations: its channels may be scaled, other than those of the float graph.
    right = case.graph if case.on_engine else without_activation_pairs(case.graph)
    fused = case.integers if case.on_engine else ()
    read = observed_values(case.right.graph, case.graph.graph, fused=fused)[failing.value]

    def run(part: ir.Model, arrays: dict[str, np.ndarray], output: str) -> np.ndarray:
        return case.values(part, [arrays])([output])[0][output]

    return smallest_graph(
        right,
        case.graph,
        value=read if case.on_engine else failing.value,
        read=read,
        feed=case.feeds[0],
        run=run,
        limit_db=limit_db,
        save=save,
    )
