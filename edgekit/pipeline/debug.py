"""Finds where an engine or a quantized graph loses its numbers, layer by layer, and the smallest graph that does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from edgekit.arguments import argument
from edgekit.config import BackendOptions
from edgekit.errors import UsageError
from edgekit.measure.noise_report import NoiseReport, SmallestGraph
from edgekit.option import given_options, given_path
from edgekit.option.objects import SupportsArray
from edgekit.pipeline.debug_case import Case, case_of_engine, case_of_model
from edgekit.pipeline.model_kind import kind_of
from edgekit.pipeline.smallest import smallest_graph, without_activation_pairs
from edgekit.pipeline.validate import build_config, calibration_config, require_buildable
from edgekit.progress import KeptNotes, Progress, Silent, given_progress
from edgekit.quantize.compare import LIMITS, LayerNoise
from edgekit.quantize.layer_noise import (
    first_collapse,
    layer_noise,
    observed_values,
)
from edgekit.recipe.schema import Preprocess
from edgekit.scratch import scratch_folder

__all__ = ["debug"]

OWN_ARGUMENTS = ("against", "graph_only", "save", "progress")
"""Arguments of `debug` that `edgekit.build` does not have, or uses otherwise."""


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
    notes = KeptNotes(Silent() if progress is None else given_progress(progress))
    right = None if against is None else str(given_path("against", against))
    folder = None if save is None else given_path("save", save)
    if isinstance(model, (str, Path)) and os.path.isdir(model):
        _require_no_build_options(given)
        data = calibration_config(calib=calib)
        with scratch_folder() as scratch:
            case = case_of_engine(Path(model), right, data, notes, scratch, graph_only=graph_only)
    else:
        kind_of(model, or_engine=True)  # the error on an unknown name says that an engine's folder is accepted too
        config = build_config(**given)
        require_buildable(config)
        with scratch_folder() as scratch:
            case = case_of_model(config, right, notes, scratch, graph_only=graph_only)
    return _report(case, notes, folder)


def _require_no_build_options(given: Mapping[str, Any]) -> None:
    """Refuses options of a build, which an engine has from its own: they would do nothing."""
    config = build_config(**given)
    # Those of a backend first: they are given together with a target.
    for group in sorted(config.groups, key=lambda each: each is not config.target.engine):
        within = "engine" if group is config.target.engine else ""
        for found in given_options(group):
            if found.always and given[found.name] in ("int8", None) or found.name == "calib":
                continue
            option = argument(found.name, flag=found.flag, within=within)
            if found.always:
                option = argument(found.name, given[found.name])
            raise UsageError(
                f"{option}: expected a model, got an engine, which has its own from its build",
                hint="leave it out, or give the model that the engine was built from",
            )


def _report(case: Case, notes: KeptNotes, save: Path | None) -> NoiseReport:
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


def _smallest(case: Case, failing: LayerNoise, limit_db: float, save: Path | None) -> SmallestGraph:
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
