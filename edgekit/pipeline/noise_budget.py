"""Keeps the few layers that make most of the noise in float, while an INT8 graph loses much of an output.

Often a small part of the layers makes most of the noise: one whose inputs have a few values far beyond the others, or
the first of a narrow network. What each layer adds to the outputs is measured on calibration inputs, and the layers
that add most stay in float, as long as that helps and they are a small part of the work.

Measured on inputs that did not calibrate: MiniLM keeps 21.9 dB instead of 19.6 on ``cpu`` in 1.05 of the time, 23.7
instead of 20.7 on ``openvino`` in 1.08 of the time, and 21.2 instead of 17.8 in TensorRT's typed graph, by channels
that are multiplied apart. PP-OCRv4's recognizer keeps 10.7 instead of 9.5 there, by five layers.
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
from edgekit.pipeline.inputs import Feed, Inputs
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.pipeline.precision import TypedGraph, typed_graph
from edgekit.pipeline.reference import Reference
from edgekit.progress import Progress
from edgekit.quantize.compare import noise_of_outputs, worst_noise
from edgekit.quantize.half.check import rounding_graph
from edgekit.quantize.layer_noise import nodes_on_integers
from edgekit.quantize.layer_switches import SwitchedGraph
from edgekit.specs import EXACT_DB
from edgekit.text import some_of

__all__ = ["ENOUGH_DB", "ENOUGH_OF_BOXES_DB", "Outputs", "outputs_of", "with_noisy_layers_in_float"]

ENOUGH_DB = 22.0
"""With more, all layers stay on integers. Inputs that did not calibrate keep a few dB less."""
ENOUGH_OF_BOXES_DB = 15.0
"""The same for detectors, also for the choice of ranges. The mean squared error prefers to clip rare large
activations, and those carry the detections: yolov3-tiny with trained weights keeps 20.9 dB of its heads and 0.995
of its detections (mAP against FP32) with ``minmax``; with ``mse`` there is less noise, and 0.966 of the detections.
ddddocr's detector, at 18.2 and 20.2 dB, keeps 0.970 and 0.978 (F1)."""
LEAST_GAIN_DB = 2.0
"""What the channels, and what all layers together, must gain in the graph that is built. Less may be chance: PP-OCRv6's
recognizer gained 0.7 dB on the inputs that were looked at, and lost 7 on others."""
LEAST_STEP_DB = 0.1
"""What each layer must gain besides those before it."""
INPUTS = 2
"""Number of inputs that the chosen layers are measured on; the others are ranked on the first."""
GROUPS, CLOSER_GROUPS = 16, 3
"""Layers next to each other are measured together first, in so many groups, and those of the best one by one."""
NAMED_LAYERS = 4

Arrays = Mapping[str, np.ndarray]
Outputs = Sequence[dict[str, np.ndarray]]
Measure = Callable[[Collection[str], int], float]


def with_noisy_layers_in_float(
    model: LoadedModel,
    inputs: Inputs,
    reference: Reference,
    calibration: Calibration,
    typed: TypedGraph,
    outputs: Outputs,
    percent: int,
    target: TargetConfig,
    progress: Progress,
) -> tuple[Calibration, TypedGraph]:
    """Keeps the layers that add most noise in float, and notes their names.

    Nothing changes where weights are random, where the outputs keep enough, or where float layers gain less than
    `LEAST_GAIN_DB`.

    Args:
        model: its float graph is quantized again.
        inputs: inputs of the model.
        reference: the outputs of the original model for them.
        calibration: what ``typed`` was quantized with.
        typed: the graph in INT8.
        outputs: its outputs for the first inputs, as `outputs_of` returns them; empty: nothing is compared.
        percent: how much of the model's multiply-accumulates may move to float.
        target: the engine's precision and backend.
        progress: receives stages and a note.

    Returns:
        The calibration, whose policy names these layers, and the graph.
    """
    if not percent or not model.trained or not reference.outputs or not outputs:
        return calibration, typed
    found_db = _worst_db(reference.outputs[: len(outputs)], outputs, reference)
    enough_db = ENOUGH_DB if model.postprocess is None else ENOUGH_OF_BOXES_DB
    if found_db >= enough_db:
        return calibration, typed
    feeds = inputs.feeds[: len(outputs)]
    notes = []
    if _multiplies_matrices(typed.graph):
        policy = dataclasses.replace(calibration.policy, split_outliers=True)
        split = _Tried(model, dataclasses.replace(calibration, policy=policy), target, feeds, reference, progress)
        if split.db >= found_db + LEAST_GAIN_DB:
            notes.append(f"a few channels with outliers are multiplied apart: {found_db:.1f} -> {split.db:.1f} dB")
            calibration, typed, found_db = split.calibration, split.typed, split.db
    chosen = [] if found_db >= enough_db else _noisy_layers(model, typed, inputs, reference, percent, target, progress)
    if chosen:
        policy = dataclasses.replace(calibration.policy, noisy=calibration.policy.noisy | frozenset(chosen))
        kept = _Tried(model, dataclasses.replace(calibration, policy=policy), target, feeds, reference, progress)
        if kept.db >= found_db + LEAST_GAIN_DB:
            notes.append(f"{some_of(chosen, NAMED_LAYERS)}: {found_db:.1f} -> {kept.db:.1f} dB")
            calibration, typed = kept.calibration, kept.typed
    if notes:
        rest = str(scheme_of(target).rest).upper()
        progress.note(
            f"stays in {rest}, since most of the noise of the worst output comes from there: {'; '.join(notes)}, on "
            f"calibration inputs; {argument('noise_budget', 0)} turns it off"
        )
    return calibration, typed


def outputs_of(typed: TypedGraph, feeds: Sequence[Feed]) -> Outputs:
    """Runs a typed graph in ONNX Runtime, as its target rounds."""
    evaluator = Evaluator(rounding_graph(typed.graph), threads=cpu().compute_threads)
    return [evaluator.run(dict(feed)) for feed in feeds]


class _Tried:
    """The model's graph, quantized in another way, and what that keeps of the outputs."""

    def __init__(
        self,
        model: LoadedModel,
        calibration: Calibration,
        target: TargetConfig,
        feeds: Sequence[Feed],
        reference: Reference,
        progress: Progress,
    ) -> None:
        self.calibration = calibration
        self.typed = typed_graph(model, calibration, target, progress)
        with progress.stage("checking the noise"):
            outputs = outputs_of(self.typed, feeds)
        self.db = _worst_db(reference.outputs[: len(outputs)], outputs, reference)


def _multiplies_matrices(graph: ir.Model) -> bool:
    names = nodes_on_integers(graph.graph)
    return any(node.op_type in ("MatMul", "Gemm") and node.name in names for node in graph.graph)


def _noisy_layers(
    model: LoadedModel,
    typed: TypedGraph,
    inputs: Inputs,
    reference: Reference,
    percent: int,
    target: TargetConfig,
    progress: Progress,
) -> list[str]:
    """Returns the layers to keep in float, those that gain most first."""
    with progress.stage("looking for layers that make most of the noise"):
        switched = SwitchedGraph(rounding_graph(typed.graph), scheme_of(target), threads=cpu().compute_threads)

        def measure(layers: Collection[str], count: int) -> float:
            got = [switched.run(feed, layers) for feed in inputs.feeds[:count]]
            return _worst_db(reference.outputs[: len(got)], got, reference)

        macs = {layer.name: layer.macs for layer in model.stats.layers}
        room = percent / 100 * model.stats.macs
        layers = [name for name in switched.layers if macs.get(name, 0) <= room]
        return _chosen(layers, measure, macs, room)


def _chosen(layers: Sequence[str], measure: Measure, macs: Mapping[str, int], room: float) -> list[str]:
    """Adds layers, those that gain most alone first, while each gains beside those before it."""
    ranked = _ranked(layers, measure)
    found_db = measure((), INPUTS) if ranked else ENOUGH_DB
    chosen: list[str] = []
    for name in ranked:
        cost = macs.get(name, 0)
        if found_db >= ENOUGH_DB:
            break
        if cost > room:
            continue
        with_db = measure([*chosen, name], INPUTS)
        if with_db >= found_db + LEAST_STEP_DB:
            chosen.append(name)
            found_db, room = with_db, room - cost
    return chosen


def _ranked(layers: Sequence[str], measure: Measure) -> list[str]:
    """Returns the layers that gain alone, the best first; of many layers, those of the groups that gain most."""
    if not layers:
        return []
    before_db = measure((), 1)
    size = -(-len(layers) // GROUPS)
    groups = _gaining(
        [tuple(layers[start : start + size]) for start in range(0, len(layers), size)], measure, before_db
    )
    if size == 1:
        return [name for (name,) in groups]
    singles = [(name,) for group in groups[:CLOSER_GROUPS] for name in group]
    return [name for (name,) in _gaining(singles, measure, before_db)]


def _gaining(groups: Sequence[tuple[str, ...]], measure: Measure, before_db: float) -> list[tuple[str, ...]]:
    gains = {group: measure(group, 1) - before_db for group in groups}
    return sorted((group for group in groups if gains[group] >= LEAST_STEP_DB), key=lambda group: -gains[group])


def _worst_db(expected: Sequence[Arrays], got: Sequence[Arrays], reference: Reference) -> float:
    """Returns the lowest signal-to-noise ratio of an output as it is, and of the parts that are judged.

    Parts show small scores beside large boxes, and logits small probabilities, which hide an error of large ones. Rows
    that are selected by value are compared as parts alone: their order may be another one.
    """
    plain = [name for name in (expected[0] if expected else ()) if not _is_selected(name, reference)]
    wanted, found = ([{name: each[name] for name in plain} for each in outputs] for outputs in (expected, got))
    noise = [*noise_of_outputs(expected, got, reference.forms), *noise_of_outputs(wanted, found)]
    worst = worst_noise(noise)
    return EXACT_DB if worst is None or worst.sqnr_db is None else worst.sqnr_db


def _is_selected(name: str, reference: Reference) -> bool:
    form = reference.forms.get(name)
    return form is not None and form.selected
