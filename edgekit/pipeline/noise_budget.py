"""Keeps the few layers that make most of the noise in float, while an INT8 graph loses much of an output.

Often a small part of the layers makes most of the noise: one whose inputs have a few values far beyond the others, one
whose weights are large where its inputs are small, or the first of a narrow network. What each layer adds to the
outputs is measured on calibration inputs (`edgekit.quantize.noise_search`), and the layers that add most for their work
stay in float, besides those that `edgekit.quantize.noisy_layers` finds in every network by their inputs alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import onnx_ir as ir

from edgekit.arguments import argument
from edgekit.device.cpu import cpu
from edgekit.engine.backend import scheme_of
from edgekit.pipeline.calibrate import Calibration
from edgekit.pipeline.trials import Trial
from edgekit.quantize.compare import LIMITS
from edgekit.quantize.half.check import rounding_graph
from edgekit.quantize.layer_noise import nodes_on_integers
from edgekit.quantize.layer_switches import SwitchedGraph
from edgekit.quantize.noise_search import NoisyLayers, noisy_layers
from edgekit.specs import Precision
from edgekit.text import some_of

__all__ = ["ENOUGH_DB", "ENOUGH_OF_BOXES_DB", "with_noisy_layers_in_float"]

ENOUGH_DB = 22.0
"""With more, all layers stay on integers. Inputs that did not calibrate keep a few dB less."""
ENOUGH_OF_BOXES_DB = 15.0
"""The same for detectors, also for the choice of ranges. The mean squared error prefers to clip rare large
activations, and those carry the detections: yolov3-tiny with trained weights keeps 20.9 dB of its heads and 0.995
of its detections (mAP against FP32) with ``minmax``; with ``mse`` there is less noise, and 0.966 of the detections.
ddddocr's detector, at 18.2 and 20.2 dB, keeps 0.970 and 0.978 (F1)."""
AIM_DB = 30.0
"""Layers move to float until so much is left, since the noise on other inputs is larger, and that of layers adds up."""
COLLAPSED_DB = LIMITS[Precision.INT8].warned_db
"""With less, the results are visibly wrong, and `COLLAPSED_PERCENT` of the work may move to float, if the budget is not
enough, until `USABLE_DB` are left."""
COLLAPSED_PERCENT = 40
USABLE_DB = 14.0
LEAST_GAIN_DB = 2.0
"""What the channels, and what all layers together, must gain in the graph that is built. Less may be chance: PP-OCRv6's
recognizer gained 0.7 dB on the inputs that were looked at, and lost 7 on others."""
LEAST_INPUTS, MOST_MACS = 1, 1_000_000_000
"""Layers are measured on at least one input, and on more of them while those take no more multiply-accumulates."""
LEAST_RUNS, MOST_RUNS, SEARCH_MACS = 40, 200, 4_000_000_000
"""Combinations of layers that are measured: at least 40, and up to 200 while they take no more multiply-accumulates
than this. PP-OCR's classifier keeps 41 dB with 100 runs, which take 0.2 s, and 22 dB with 40."""
NAMED_LAYERS = 4


def with_noisy_layers_in_float(found: Trial, percent: int) -> Trial:
    """Keeps the layers that add most noise in float, and notes their names.

    Nothing changes where the outputs keep enough, or where float layers gain less than `LEAST_GAIN_DB`.

    Args:
        found: the graph in INT8, with outputs for some inputs.
        percent: how much of the model's work may move to float.

    Returns:
        The graph to build; its policy names these layers.
    """
    trials = found.trials
    enough_db = ENOUGH_DB if trials.model.postprocess is None else ENOUGH_OF_BOXES_DB
    notes: list[str] = []
    if found.db < enough_db and _multiplies_matrices(found.typed.graph):
        policy = replace(found.calibration.policy, split_outliers=True, shift_inputs=True)
        split = _better(found, replace(found.calibration, policy=policy))
        if split is not found:
            shifted = ", and inputs of one sign are shifted" if scheme_of(trials.target).shift_inputs else ""
            gain = f"{found.db:.1f} -> {split.db:.1f} dB"
            notes.append(f"a few channels with outliers are multiplied apart{shifted}: {gain}")
        found = split
    if found.db < enough_db:
        cost = {layer.name: layer.macs for layer in trials.model.stats.layers}
        measured = _measured(found)
        work = trials.model.stats.macs + scheme_of(trials.target).launch_macs * len(measured.layers)
        before = found
        for share, aim_db in ((percent, AIM_DB), (max(percent, COLLAPSED_PERCENT), USABLE_DB)):
            chosen = measured.chosen(cost, share / 100 * work, 10 ** (-aim_db / 10))
            # The layers that stay in float by the inputs of each stay so: they would hide what those chosen gain.
            policy = replace(before.calibration.policy, noisy=frozenset(chosen), noisy_inputs=before.typed.noisy_inputs)
            # With all of them in float, no INT8 graph would be left.
            if 0 < len(chosen) < len(measured.layers):
                found = _better(found, replace(before.calibration, policy=policy))
            if found.db >= COLLAPSED_DB:
                break
        if found is not before:
            kept = sorted(found.calibration.policy.noisy)
            notes.append(f"{some_of(kept, NAMED_LAYERS)}: {before.db:.1f} -> {found.db:.1f} dB")
    if notes:
        rest = str(scheme_of(trials.target).rest).upper()
        trials.progress.note(
            f"stays in {rest}, since most of the noise of the worst output comes from there: {'; '.join(notes)}, on "
            f"calibration inputs; {argument('noise_budget', 0)} turns it off"
        )
    return found


def _better(found: Trial, other: Calibration) -> Trial:
    """Returns the graph by another calibration, if it keeps more."""
    tried = found.trials.tried(other, len(found.outputs))
    return tried if tried.db >= found.db + LEAST_GAIN_DB else found


def _multiplies_matrices(graph: ir.Model) -> bool:
    names = nodes_on_integers(graph.graph)
    return any(node.op_type in ("MatMul", "Gemm") and node.name in names for node in graph.graph)


def _measured(found: Trial) -> NoisyLayers:
    """Measures what single layers add to the noise of the outputs."""
    trials = found.trials
    count = max(LEAST_INPUTS, MOST_MACS // max(trials.model.stats.macs, 1))
    feeds = trials.inputs.feeds[: min(count, len(found.outputs))]
    with trials.progress.stage("looking for layers that make most of the noise"):
        switched = SwitchedGraph(
            rounding_graph(found.typed.graph),
            scheme_of(trials.target),
            found.typed.exact,
            threads=cpu().compute_threads,
        )
        everything = frozenset(switched.layers)

        def noise_of(on_integers: Collection[str]) -> dict[str, float]:
            energies: dict[str, float] = {}
            for each in trials.noise([switched.run(feed, everything.difference(on_integers)) for feed in feeds]):
                if each.sqnr_db is not None:
                    name = each.where if each.where not in energies else f"{each.where}, as it is"
                    energies[name] = 10 ** (-each.sqnr_db / 10)
            return energies

        runs = min(max(LEAST_RUNS, SEARCH_MACS // max(trials.model.stats.macs, 1)), MOST_RUNS)
        return noisy_layers(switched.layers, noise_of, 10 ** (-AIM_DB / 10), runs)
