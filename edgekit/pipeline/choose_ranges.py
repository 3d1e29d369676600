"""Chooses how ranges are made from what calibration observes, where nobody has: by what is left of the outputs."""

from __future__ import annotations

from dataclasses import replace

from edgekit.config import CalibrationConfig, TargetConfig
from edgekit.engine.backend import scheme_of
from edgekit.pipeline.calibrate import DEFAULT_METHOD, Calibration, calibrate, measured_ranges
from edgekit.pipeline.half import lost_in_rest
from edgekit.pipeline.inputs import Inputs
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.pipeline.noise_budget import ENOUGH_OF_BOXES_DB, Outputs, outputs_of, with_noisy_layers_in_float
from edgekit.pipeline.precision import TypedGraph, typed_graph
from edgekit.pipeline.reference import Reference
from edgekit.pipeline.selected_rows import noise_of_same_rows, with_noise_of_same_rows
from edgekit.progress import Progress
from edgekit.quantize.compare import noise_of_outputs, worst_noise
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
            lost = lost_in_rest(model, calibration, rest, progress, io=target.half_io)
        calibration = replace(calibration, lost_in_half=lost)
    typed = typed_graph(model, calibration, target, progress)
    free = _is_free(model, reference, config)
    with progress.stage("checking the noise"):
        watched = model.trained and typed.kept_in_float is not None
        feeds = inputs.feeds if free else inputs.feeds[:CHECKED] if watched and config.noise_budget else ()
        outputs = outputs_of(typed, feeds) if feeds else ()
    if free:
        calibration, typed, outputs = _best_ranges(
            model, inputs, reference, calibration, typed, outputs, target, progress
        )
    return with_noisy_layers_in_float(
        model, inputs, reference, calibration, typed, outputs, config.noise_budget, target, progress
    )


def _best_ranges(
    model: LoadedModel,
    inputs: Inputs,
    reference: Reference,
    calibration: Calibration,
    typed: TypedGraph,
    outputs: Outputs,
    target: TargetConfig,
    progress: Progress,
) -> tuple[Calibration, TypedGraph, Outputs]:
    with progress.stage("checking the noise"):
        found_db = _worst_db(model, typed, outputs, inputs, reference)
    if found_db is None or found_db >= (ENOUGH_DB if model.postprocess is None else ENOUGH_OF_BOXES_DB):
        return calibration, typed, outputs
    best_db, method = found_db, DEFAULT_METHOD
    tables = measured_ranges(model, inputs.samples, OTHER_METHODS, threads=target.threads, progress=progress)
    for other, table in tables.items():
        tried = replace(calibration, table=table)
        tried_typed = typed_graph(model, tried, target, progress)
        with progress.stage("checking the ranges"):
            tried_outputs = outputs_of(tried_typed, inputs.feeds)
            tried_db = _worst_db(model, tried_typed, tried_outputs, inputs, reference)
        if tried_db is not None and tried_db >= best_db + LEAST_GAIN_DB:
            calibration, typed, outputs, best_db, method = tried, tried_typed, tried_outputs, tried_db, other
    if method != DEFAULT_METHOD:
        progress.note(
            f"ranges are chosen by '{method}', which keeps {best_db:.1f} dB of the worst output on calibration inputs; "
            f"'{DEFAULT_METHOD}' keeps {found_db:.1f} dB"
        )
    return calibration, typed, outputs


def _is_free(model: LoadedModel, reference: Reference, config: CalibrationConfig) -> bool:
    """Whether ranges may be chosen, and what they do can be told."""
    named = config.calib_method or (model.policy.method if model.policy else "")
    return model.trained and not named and bool(reference.outputs)


def _worst_db(
    model: LoadedModel, typed: TypedGraph, outputs: Outputs, inputs: Inputs, reference: Reference
) -> float | None:
    """Returns the lowest signal-to-noise ratio of an output, or of a part of one."""
    noise = noise_of_outputs(reference.outputs, outputs, reference.forms)
    same = noise_of_same_rows(model.graph, typed.graph, inputs.feeds, reference.forms)
    worst = worst_noise(with_noise_of_same_rows(noise, same))
    return None if worst is None else worst.sqnr_db
