"""Layers that a target does not compute on integers fall back to float: the graph is quantized again without them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Set
from typing import NamedTuple

from edgekit.config import TargetConfig
from edgekit.errors import BuildError, GraphError
from edgekit.measure.compare import BuiltEngine
from edgekit.pipeline.calibrate import Calibration
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.pipeline.precision import TypedGraph, typed_graph
from edgekit.progress import Progress
from edgekit.quantize.layer_noise import nodes_on_integers
from edgekit.specs import Precision
from edgekit.text import some_of

__all__ = ["built_or_in_float"]

ROUNDS = 3
"""How often a graph is quantized again. A layer in float may leave another without the integers that it reads."""

Build = Callable[[TypedGraph], BuiltEngine]


class Fallen(NamedTuple):
    """An engine, and the graph that it was built from."""

    engine: BuiltEngine
    typed: TypedGraph


def built_or_in_float(
    build: Build,
    typed: TypedGraph,
    model: LoadedModel,
    calibration: Calibration,
    target: TargetConfig,
    progress: Progress,
) -> Fallen:
    """Builds an engine; quantizes the graph again, without the layers that the target refuses, if it refuses some.

    Args:
        build: builds the engine from a typed graph.
        typed: the first graph to build from.
        model: its float graph is quantized again.
        calibration: what the graph was quantized with.
        target: the engine's precision and backend.
        progress: receives a note that names the layers.

    Raises:
        BuildError: the builder failed for another reason, or still does after three more attempts.
        GraphError: the backend does not support the graph, or computes none of its layers on integers.
    """
    for _ in range(ROUNDS):
        try:
            return Fallen(build(typed), typed)
        except (BuildError, GraphError) as e:
            if target.precision is not Precision.INT8 or typed.kept_in_float is None:
                raise
            refused = _refused(e, nodes_on_integers(typed.graph.graph))
            if not refused:
                raise
        policy = calibration.policy
        policy = dataclasses.replace(policy, refused=policy.refused | refused)
        calibration = dataclasses.replace(calibration, policy=policy)
        typed = typed_graph(model, calibration, target, progress)
        progress.note(
            f"stays in float on {target.target}: {some_of(sorted(refused))}: the target does not compute "
            f"{'it' if len(refused) == 1 else 'them'} on integers"
        )
    return Fallen(build(typed), typed)


def _refused(error: BuildError | GraphError, quantized: Set[str]) -> frozenset[str]:
    """Returns the quantized nodes that an error is about: those that were read back, or those that its text names."""
    if isinstance(error, BuildError) and error.nodes:
        return frozenset(error.nodes) & quantized
    words = set(re.split(r"[\s'\"(),;:]+", error.message))
    return frozenset(name for name in quantized if name in words)
