"""Keeps the few layers that make most of the noise in float, while an INT8 graph loses much of an output.

Often a small part of the layers makes most of the noise: one whose inputs have a few values far beyond the others, or
the first of a narrow network. What each layer adds to the outputs is measured on calibration inputs, and the layers
that add most stay in float, as long as that helps and they are a small part of the work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgekit.arguments import argument
from edgekit.config import TargetConfig
from edgekit.device.cpu import cpu
from edgekit.engine.backend import scheme_of
from edgekit.graph.evaluator import Evaluator
from edgekit.pipeline.calibrate import Calibration
from edgekit.pipeline.inputs import Inputs
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.pipeline.precision import TypedGraph, typed_graph
from edgekit.pipeline.reference import Reference
from edgekit.progress import Progress
from edgekit.quantize.compare import noise_of_outputs, worst_noise
from edgekit.quantize.half.check import rounding_graph
from edgekit.quantize.layer_switches import SwitchedGraph
from edgekit.specs import EXACT_DB
from edgekit.text import some_of

__all__ = ["ENOUGH_DB", "with_noisy_layers_in_float"]

ENOUGH_DB = 22.0
"""With more, all layers stay on integers. Inputs that did not calibrate keep a few dB less."""
LEAST_GAIN_DB = 0.5
"""What all layers together must gain, in the graph that is built."""
LEAST_STEP_DB = 0.1
"""What each layer must gain besides those before it."""
INPUTS = 2
"""Number of inputs to measure layers on."""
GROUPS = 24
"""Layers next to each other are measured together first, in this many groups."""
CLOSER_GROUPS = 6
"""Number of groups whose layers are measured one by one."""
NAMED_LAYERS = 4

Arrays = Mapping[str, np.ndarray]
Measure = Callable[[Collection[str]], float]


def with_noisy_layers_in_float(
    model: LoadedModel,
    inputs: Inputs,
    reference: Reference,
    calibration: Calibration,
    typed: TypedGraph,
    percent: int,
    target: TargetConfig,
    progress: Progress,
) -> tuple[Calibration, TypedGraph]:
    """Keeps the layers that add most noise in float, and notes their names.

    Nothing changes where weights are random, where the outputs keep `ENOUGH_DB`, or where float layers gain less than
    `LEAST_GAIN_DB`.

    Args:
        model: its float graph is quantized again.
        inputs: inputs of the model.
        reference: the outputs of the original model for them.
        calibration: what ``typed`` was quantized with.
        typed: the graph in INT8.
        percent: how much of the model's multiply-accumulates may move to float.
        target: the engine's precision and backend.
        progress: receives stages and a note.

    Returns:
        The calibration, whose policy names these layers, and the graph.
    """
    if not percent or not model.trained or not reference.outputs or typed.kept_in_float is None:
        return calibration, typed
    with progress.stage("looking for layers that make most of the noise"):
        wide = rounding_graph(typed.graph)
        before_db = _kept_db(wide, inputs, reference)
        if before_db >= ENOUGH_DB:
            return calibration, typed
        switched = SwitchedGraph(wide, scheme_of(target), threads=cpu().compute_threads)
        feeds, expected = inputs.feeds[:INPUTS], reference.outputs[:INPUTS]

        def measure(layers: Collection[str]) -> float:
            return _worst_db(expected, [switched.run(feed, layers) for feed in feeds], reference)

        macs = {layer.name: layer.macs for layer in model.stats.layers}
        room = percent / 100 * model.stats.macs
        layers = [name for name in switched.layers if macs.get(name, 0) <= room]
        chosen = _chosen(layers, measure, macs, room)
    if not chosen:
        return calibration, typed
    policy = dataclasses.replace(calibration.policy, noisy=calibration.policy.noisy | frozenset(chosen))
    tried = dataclasses.replace(calibration, policy=policy)
    tried_typed = typed_graph(model, tried, target, progress)
    with progress.stage("checking the layers in float"):
        after_db = _kept_db(rounding_graph(tried_typed.graph), inputs, reference)
    if after_db < before_db + LEAST_GAIN_DB:
        return calibration, typed
    part = sum(macs.get(name, 0) for name in chosen) / max(1, model.stats.macs)
    progress.note(
        f"stays in {str(scheme_of(target).rest).upper()}, since most of the noise comes from there: "
        f"{some_of(chosen, NAMED_LAYERS)}, {100 * part:.1f} % of the multiply-accumulates; that keeps "
        f"{after_db:.1f} dB of the worst output on calibration inputs, {before_db:.1f} dB without; "
        f"{argument('noise_budget', 0)} turns it off"
    )
    return tried, tried_typed


def _chosen(layers: Sequence[str], measure: Measure, macs: Mapping[str, int], room: float) -> list[str]:
    """Returns the layers to keep in float, those that gain most first."""
    found_db = before_db = measure(())
    chosen: list[str] = []
    for name in _ranked(layers, measure, before_db):
        cost = macs.get(name, 0)
        if found_db >= ENOUGH_DB or cost > room:
            continue
        with_db = measure([*chosen, name])
        if with_db >= found_db + LEAST_STEP_DB:
            chosen.append(name)
            found_db, room = with_db, room - cost
    return chosen


def _ranked(layers: Sequence[str], measure: Measure, before_db: float) -> list[str]:
    """Returns the layers that gain alone, the best first; of many layers, those of the groups that gain most."""
    size = -(-len(layers) // GROUPS)
    if size > 1:
        groups = [layers[start : start + size] for start in range(0, len(layers), size)]
        groups = sorted(groups, key=measure, reverse=True)[:CLOSER_GROUPS]
        layers = [name for group in groups for name in group]
    gains = {name: measure([name]) - before_db for name in layers}
    return sorted((name for name in layers if gains[name] >= LEAST_STEP_DB), key=lambda name: -gains[name])


def _kept_db(graph: ir.Model, inputs: Inputs, reference: Reference) -> float:
    evaluator = Evaluator(graph, threads=cpu().compute_threads)
    return _worst_db(reference.outputs, [evaluator.run(dict(feed)) for feed in inputs.feeds], reference)


def _worst_db(expected: Sequence[Arrays], got: Sequence[Arrays], reference: Reference) -> float:
    """Returns the lowest signal-to-noise ratio of an output as it is, and of the parts that are judged.

    Parts show small scores beside large boxes, and logits small probabilities, which hide an error of large ones.
    """
    noise = [*noise_of_outputs(expected, got, reference.forms), *noise_of_outputs(expected, got)]
    worst = worst_noise(noise)
    return EXACT_DB if worst is None or worst.sqnr_db is None else worst.sqnr_db
