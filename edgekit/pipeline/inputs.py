"""Inputs of a model: those that it is calibrated on, and a few of them that every stage of the build is compared on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from edgekit.arguments import argument
from edgekit.config import CalibrationConfig, TargetConfig
from edgekit.data.calibration.calibration_set import CalibrationSet, calibration_set, calibration_set_names
from edgekit.data.calibration.example_feeds import ExampleFeeds
from edgekit.data.calibration.given_samples import GivenSamples, given_samples
from edgekit.data.calibration.random_inputs import RandomInputs
from edgekit.data.examples import data_set, data_set_names, is_data_set
from edgekit.errors import CalibrationError, UsageError, nearest
from edgekit.option.objects import CalibrationData
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.progress import Progress, Silent
from edgekit.specs import Precision, TensorSpec

__all__ = ["Feed", "Inputs", "Samples", "calibration_inputs", "model_inputs"]

DEFAULT_SET = "sample"
RANDOM_INPUTS = 16
HALF_IMAGES = 8
"""Number of images for half precision, which needs to know which ranges overflow, but not their exact limits."""
COMPARED_INPUTS = 8
"""Number of inputs to compare engines on."""
MIN_MAX_INPUTS = 4
"""Number of them that are resized to the min and max shapes."""

Feed: TypeAlias = "dict[str, np.ndarray]"
Samples: TypeAlias = "CalibrationSet | ExampleFeeds | GivenSamples | RandomInputs"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Inputs of a model.

    Attributes:
        samples: the inputs to calibrate on.
        feeds: the first of them, to compare engines on.
        min_max_feeds: some of ``feeds``, resized to the min and the max shapes.
    """

    samples: Samples
    feeds: Sequence[Feed]
    min_max_feeds: Sequence[Sequence[Feed]] = ()


def model_inputs(
    model: LoadedModel,
    config: CalibrationConfig,
    target: TargetConfig,
    progress: Progress,
    scratch: Path | None = None,
) -> Inputs:
    """Chooses the inputs that the model is calibrated and compared on.

    Args:
        model: the model.
        config: the calibration data.
        target: inputs of other precisions than INT8 need fewer samples.
        progress: receives stages and notes.
        scratch: an existing folder for data that can be read only once, and which must exist as long as the inputs;
            None keeps such data in memory.

    Raises:
        UsageError: the calibration set is unknown.
        CalibrationError: no input can be read or fits the model.
    """
    calibrated = target.precision is Precision.INT8 and not model.quantized and not target.uncalibrated
    if target.precision is not Precision.INT8 or target.uncalibrated:
        config = replace(config, calib_images=config.calib_images or HALF_IMAGES)
    # Nothing is calibrated on the inputs of the others, so notes about them do not help the user.
    samples = calibration_inputs(model, config, progress if calibrated else Silent(), scratch)
    found = samples.feeds(model.inputs, model.preprocess, model.shapes)
    feeds = [arrays for _, arrays in itertools.islice(found, COMPARED_INPUTS)]
    if not feeds:
        raise CalibrationError(
            f"calibration set '{samples.name}': expected inputs that fit the model, got none: "
            f"{next(iter(samples.skipped), 'it is empty')}"
        )
    if isinstance(samples, CalibrationSet) and samples.left_out:
        names = ", ".join(sorted(samples.left_out))
        progress.note(f"{argument('calib')}: left out what is no input of the model: {names}")
    return Inputs(samples=samples, feeds=feeds, min_max_feeds=_min_max_feeds(feeds[:MIN_MAX_INPUTS], model))


def calibration_inputs(
    model: LoadedModel, config: CalibrationConfig, progress: Progress, scratch: Path | None = None
) -> Samples:
    """Returns the inputs to calibrate on: the set of the user or the recipe, else shipped images, else random numbers.

    ``scratch`` is as in `model_inputs`.

    Raises:
        UsageError: the set is unknown.
        CalibrationError: the set is empty.
    """
    given = config.calib
    named = str(given or (model.policy.calibration if model.policy else ""))
    if config.calib_column is not None:
        if isinstance(given, CalibrationData) or not is_data_set(named):
            got = f"'{named}'" if named else "none"
            raise UsageError(
                f"{argument('calib_column', config.calib_column)}: expected a CSV table with "
                f"{argument('calib')}, got {got}"
            )
        return _examples(named, model, config)
    if isinstance(given, CalibrationData):
        return given_samples(
            given.value,
            model.inputs,
            model.preprocess,
            model.shapes,
            limit=config.calib_images,
            folder=scratch,
            progress=progress,
        )
    if named:
        return _named_inputs(named, model, config)
    if model.preprocess is None:
        count = config.calib_images or RANDOM_INPUTS
        progress.note(
            f"calibrated on {count} random inputs: the INT8 latency is real, the accuracy is not. "
            f"Give real inputs with {argument('calib', like='DIR')}, a folder of .npy or .npz files"
        )
        return RandomInputs(count, model.num_values)
    samples = calibration_set(DEFAULT_SET, limit=config.calib_images)
    progress.note(
        f"calibrated on the shipped set '{DEFAULT_SET}' of {len(samples)} images; "
        f"images of your own task ({argument('calib', like='DIR')}) keep more accuracy"
    )
    return samples


def _named_inputs(name: str, model: LoadedModel, config: CalibrationConfig) -> Samples:
    """Returns a calibration set, or the training split of a data set; the other split is for evaluation."""
    try:
        return calibration_set(name, limit=config.calib_images)
    except UsageError as e:
        if not is_data_set(name):
            known = [*calibration_set_names(), *data_set_names()]
            raise UsageError(e.message, hint=e.hint and nearest(name, known)) from e
    except CalibrationError:
        if not is_data_set(name):
            raise
    return _examples(name, model, config)


def _examples(name: str, model: LoadedModel, config: CalibrationConfig) -> ExampleFeeds:
    examples = data_set(name, split="train", target=config.calib_column)
    return ExampleFeeds(examples, limit=config.calib_images, labels=model.labels)


def _min_max_feeds(feeds: Sequence[Feed], model: LoadedModel) -> list[list[Feed]]:
    """Resizes ``feeds`` to the min and the max shapes of the inputs.

    Images are stretched, so that no part is cut off; other arrays are cut or repeated.
    """
    stretched = model.preprocess is not None
    return [
        [{spec.name: _fitted(feed[spec.name], spec, stretched=stretched) for spec in specs} for feed in feeds]
        for specs in model.min_max.sizes
    ]


def _fitted(array: np.ndarray, spec: TensorSpec, *, stretched: bool) -> np.ndarray:
    for axis, size in enumerate(spec.shape):
        own, places = array.shape[axis], np.arange(int(size))
        array = np.take(array, places * own // len(places) if stretched else places % own, axis)
    return array
