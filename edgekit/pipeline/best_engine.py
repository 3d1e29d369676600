"""Builds the engine from its typed graph, in the form that the target takes and that turns out better."""

from __future__ import annotations

import time
from pathlib import Path

from edgekit.config import BuildConfig
from edgekit.measure.compare import BuiltEngine
from edgekit.pipeline.calibrate import Calibration
from edgekit.pipeline.choose_activations import Chosen, better_of_both
from edgekit.pipeline.compile import compile_engine
from edgekit.pipeline.fall_back import built_or_in_float
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.pipeline.precision import TypedGraph
from edgekit.pipeline.verify import Verifier

__all__ = ["best_engine"]


def best_engine(
    folder: Path,
    scratch: Path,
    model: LoadedModel,
    typed: TypedGraph,
    calibration: Calibration,
    config: BuildConfig,
    verifier: Verifier,
    *,
    runs_here: bool,
    started: float,
) -> Chosen:
    """Builds the engine in ``folder``: layers that the target refuses in float, activations in the better of two ways.

    Args:
        folder: receives the engine and its graph.
        scratch: an existing folder for an engine that is built to compare with.
        model: the loaded model.
        typed: the graph to build from.
        calibration: what it was quantized with.
        config: the build config.
        verifier: compares a graph with other layers in float with the original model.
        runs_here: engines for the target run on this machine.
        started: when the build started, by `time.perf_counter`.

    Raises:
        AccuracyError: an output is beyond the limits of the precision.
        BuildError: the builder failed.
        GraphError: the backend does not support the graph.
    """
    progress = verifier.progress

    def compiled(graph: TypedGraph) -> BuiltEngine:
        return compile_engine(folder, model, graph, calibration, config, progress)

    engine, built = built_or_in_float(compiled, typed, model, calibration, config.target, progress)
    if built is not typed:
        verifier.verify_typed(built, measured=runs_here)
    chosen = Chosen(engine, built, calibration, config)
    if not runs_here:
        return chosen
    return better_of_both(
        chosen,
        model,
        verifier.inputs,
        verifier.reference,
        scratch=scratch,
        elapsed_s=time.perf_counter() - started if config.output.profile else None,
        progress=progress,
    )
