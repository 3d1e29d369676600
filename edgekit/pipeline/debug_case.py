"""The two forms of a model that `debug` compares: one whose values are right, and the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from edgekit.arguments import argument
from edgekit.config import BuildConfig, CalibrationConfig
from edgekit.data.calibration.calibration_set import calibration_set
from edgekit.data.calibration.given_samples import given_samples
from edgekit.data.calibration.random_inputs import RandomInputs
from edgekit.device.cpu import cpu
from edgekit.engine.backend import BuildOptions, backend, build_options_of
from edgekit.engine.bundle.checks import check_files
from edgekit.engine.bundle.manifest import GRAPH, Manifest, read_manifest
from edgekit.errors import BackendUnavailable, EngineMismatch, UsageError
from edgekit.graph.given_selection import GivenSelection
from edgekit.graph.index_bounds import index_bounds
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.operators import SELECTING
from edgekit.graph.passes import InferShapes, optimize
from edgekit.option.objects import CalibrationData
from edgekit.pipeline.choose_ranges import calibrated_graph
from edgekit.pipeline.inputs import DEFAULT_SET, Samples, model_inputs
from edgekit.pipeline.load_model import load_model
from edgekit.pipeline.reference import reference_outputs
from edgekit.pipeline.values import engine_values, graph_values
from edgekit.pipeline.verify import Verifier
from edgekit.progress import KeptNotes
from edgekit.quantize.half.check import rounding_graph
from edgekit.quantize.layer_noise import (
    Values,
    nodes_on_integers,
)
from edgekit.specs import Precision

__all__ = ["Case", "case_of_engine", "case_of_model"]

COMPARED = 2
"""Number of inputs that layers are compared on."""

Arrays: TypeAlias = "Mapping[str, np.ndarray]"


@dataclass(frozen=True, kw_only=True)
class Case:
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


def case_of_model(
    config: BuildConfig, against: str | None, notes: KeptNotes, scratch: Path, *, graph_only: bool
) -> Case:
    """Returns a model's typed graph, or its engine, beside its float graph; the arguments are those of `debug`."""
    target, precision = config.target, config.target.precision
    model = load_model(config.model, notes, target.target, precision)
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
    model.close()
    _, typed = calibrated_graph(model, inputs, reference, config.calibration, target, notes)
    on_engine = not graph_only and _runs(target.target, notes)
    graph = typed.graph if on_engine else rounding_graph(typed.graph)
    right, graph, feeds = _same_rows(model.graph, graph, inputs.feeds[:COMPARED], notes)
    right_values = graph_values(right, feeds)
    if against is not None:
        plain = BuildOptions(precision=Precision.FP32, threads=target.threads, shapes=dict(model.shapes))
        backend(against).require_device(())
        right_values = engine_values(right, against, plain, feeds)
    return Case(
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


def case_of_engine(
    place: Path,
    against: str | Path | None,
    data: CalibrationConfig,
    notes: KeptNotes,
    scratch: Path,
    *,
    graph_only: bool,
) -> Case:
    """Returns an engine, or its graph, beside its own graph or that of a file; the arguments are those of `debug`."""
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
    samples = _samples_for(manifest, graph, data.calib, notes, scratch)
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
    return Case(
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


def _samples_for(
    manifest: Manifest, graph: ir.Model, calib: str | CalibrationData | None, notes: KeptNotes, scratch: Path
) -> Samples:
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
    return RandomInputs(COMPARED, index_bounds(graph))


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
