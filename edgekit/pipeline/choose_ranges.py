"""Chooses how ranges are made from what calibration observes, where nobody has: by what is left of the outputs."""

from __future__ import annotations

from dataclasses import replace

from edgekit.config import CalibrationConfig, TargetConfig
from edgekit.engine.backend import scheme_of
from edgekit.pipeline.calibrate import DEFAULT_METHOD, Calibration, calibrate, measured_ranges
from edgekit.pipeline.half import lost_in_rest
from edgekit.pipeline.inputs import Inputs
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.pipeline.noise_budget import ENOUGH_OF_BOXES_DB, with_noisy_layers_in_float
from edgekit.pipeline.precision import TypedGraph, typed_graph
from edgekit.pipeline.reference import Reference
from edgekit.pipeline.trials import Trial, Trials
from edgekit.progress import Progress
from edgekit.specs import Precision

__all__ = ["calibrated_graph"]

OTHER_METHODS = ("percentile", "mse")
"""Measured on held-out inputs, with ``minmax``, ``percentile`` and ``mse``: PP-OCRv4's recognizer keeps 10.0, 9.9 and
12.1 dB, EfficientNet-B0 7.5, 8.5 and 9.3, RepViT-M1 4.1, 6.4 and 6.2. Entropy is below all."""

ENOUGH_DB = 20.0
"""With more, `DEFAULT_METHOD` stays. Inputs that did not calibrate keep up to 5 dB less. Detectors need
`ENOUGH_OF_BOXES_DB`."""

LEAST_GAIN_DB = 0.5

CHECKED = 4
"""Number of inputs to look for noise on, where ranges are not chosen."""


def calibrated_graph(
    model: LoadedModel,
    inputs: Inputs,
    reference: Reference,
    config: CalibrationConfig,
    target: TargetConfig,
    progress: Progress,
) -> tuple[Calibration, TypedGraph]:
    """Calibrates the model and types its graph in the target's precision.

    If neither the user nor the recipe names a method and INT8 by `DEFAULT_METHOD` loses much of an output of trained
    weights, the graph is quantized by each of `OTHER_METHODS` too, and the best is taken. If it still loses much, the
    layers that add most of the noise stay in float (`with_noisy_layers_in_float`).

    Raises:
        UsageError: a pattern of ``keep_float`` matches no node.
        CalibrationError: no input can be read or fits the model, or a tensor has a NaN.
        GraphError: the graph cannot be typed in this precision.
    """
    calibration = calibrate(model, inputs, config, target, progress)
    if calibration.table is None or target.precision is not Precision.INT8:
        return calibration, typed_graph(model, calibration, target, progress)
    rest = scheme_of(target).rest
    if rest is not Precision.FP32:
        with progress.stage(f"looking for what {str(rest).upper()} loses"):
            lost = lost_in_rest(model, calibration, rest, config.noise_budget, progress, io=target.half_io)
        calibration = replace(calibration, lost_in_half=lost)
    trials = Trials(model=model, inputs=inputs, reference=reference, target=target, progress=progress)
    judged = model.trained and bool(reference.outputs)
    free = judged and not (config.calib_method or (model.policy.method if model.policy else ""))
    watched = CHECKED if judged and config.noise_budget else 0
    found = trials.tried(calibration, len(inputs.feeds) if free else watched)
    if free:
        found = _best_ranges(found)
    if judged and config.noise_budget:
        found = with_noisy_layers_in_float(found, config.noise_budget)
    return found.calibration, found.typed


def _best_ranges(found: Trial) -> Trial:
    """Returns the trial whose ranges keep most of the outputs; ``found`` has those of `DEFAULT_METHOD`."""
    trials, best, method = found.trials, found, DEFAULT_METHOD
    model, progress = trials.model, trials.progress
    if found.db >= (ENOUGH_DB if model.postprocess is None else ENOUGH_OF_BOXES_DB):
        return found
    tables = measured_ranges(
        model, trials.inputs.samples, OTHER_METHODS, threads=trials.target.threads, progress=progress
    )
    for other, table in tables.items():
        tried = trials.tried(replace(found.calibration, table=table), len(found.outputs))
        if tried.db >= best.db + LEAST_GAIN_DB:
            best, method = tried, other
    if method != DEFAULT_METHOD:
        progress.note(
            f"ranges are chosen by '{method}', which keeps {best.db:.1f} dB of the worst output on calibration inputs; "
            f"'{DEFAULT_METHOD}' keeps {found.db:.1f} dB"
        )
    return best
