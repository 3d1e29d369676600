"""Verification: compares the typed graph with the float graph on the CPU before an engine is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from edgekit.config import TargetConfig
from edgekit.device.cpu import cpu
from edgekit.engine.backend import backend
from edgekit.graph.evaluator import Evaluator
from edgekit.pipeline.calibrate import Calibration
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.pipeline.precision import TypedGraph
from edgekit.progress import Progress
from edgekit.quantize.compare import noise_db, require_signal
from edgekit.quantize.half.check import cast_errors, require_small_errors, rounding_graph
from edgekit.specs import Precision

__all__ = ["verify_graph"]

COMPARED_ON_CPU = 2
"""Number of inputs to compare graphs on with ONNX Runtime."""
MIN_MAX_TOLERANCE = 0.5
"""Maximum relative error of half precision on inputs that were resized to the min or max shapes: they are unlike the
data that the model was trained on, so the error varies. Overflows and wrong shapes cause larger errors."""

Feed: TypeAlias = "Mapping[str, np.ndarray]"


def verify_graph(
    model: LoadedModel,
    typed: TypedGraph,
    calibration: Calibration,
    target: TargetConfig,
    progress: Progress,
    *,
    measured: bool,
) -> None:
    """Compares the typed graph with the float graph in ONNX Runtime on the CPU.

    Half precision is always checked here, INT8 only if its engine is not measured on this machine.

    Args:
        model: has the float graph.
        typed: the graph of the engine.
        calibration: the inputs to compare on.
        target: the engine's precision and backend.
        progress: receives a stage and notes.
        measured: whether the engine will be measured and compared on this machine.

    Raises:
        AccuracyError: the error of an output exceeds the tolerance of the precision; names the worst output.
    """
    if typed.kept_in_float is None:
        return
    feeds = [[*each[:COMPARED_ON_CPU]] for each in (calibration.feeds, *calibration.min_max_feeds)]
    if target.precision is not Precision.INT8:
        _verify_half(model, typed.graph, feeds, target, progress, measured=measured)
    elif backend(target.target).on_gpu and not measured:
        with progress.stage("checking the quantized graph on the CPU"):
            expected, got = (_outputs(graph, feeds) for graph in (model.graph, typed.graph))
        found = [noise_db(a, b) for a, b in zip(expected, got, strict=True)]
        require_signal(found, model.min_max.sizes, target.target, progress)
        worst = min(found[0], key=lambda name: found[0][name], default="")
        if worst:
            progress.note(f"INT8 signal-to-noise ratio, computed on the CPU: {found[0][worst]:.1f} dB at '{worst}'")


def _verify_half(
    model: LoadedModel,
    graph: ir.Model,
    feeds: Sequence[Sequence[Feed]],
    target: TargetConfig,
    progress: Progress,
    *,
    measured: bool,
) -> None:
    expected = _outputs(model.graph, feeds)
    threads = cpu().compute_threads
    errors = cast_errors(graph, feeds[0], expected[0], threads=threads)
    require_small_errors(errors, target.precision)
    for specs, inputs, outputs in zip(model.min_max.sizes, feeds[1:], expected[1:], strict=True):
        given = f" given {'; '.join(map(str, specs))}"
        found = cast_errors(graph, inputs, outputs, threads=threads)
        require_small_errors(found, target.precision, tolerance=MIN_MAX_TOLERANCE, given=given)
    if not measured:
        name, worst = str(target.precision).upper(), max(errors.values(), default=0.0)
        progress.note(f"largest relative error of {name}, computed on the CPU: {worst:.1e}")


def _outputs(graph: ir.Model, feeds: Iterable[Iterable[Feed]]) -> list[list[dict[str, np.ndarray]]]:
    """Runs ``graph`` in ONNX Runtime on each feed; values that it stores in half precision are rounded to it."""
    evaluator = Evaluator(rounding_graph(graph), threads=cpu().compute_threads)
    return [[evaluator.run(dict(arrays)) for arrays in each] for each in feeds]
