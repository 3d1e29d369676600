"""Calibration: chooses the inputs of a model and measures the ranges of its tensors, or reads them from the cache."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np

from edgekit.config import CalibrationConfig, TargetConfig
from edgekit.data.calibration.calibration_set import CalibrationSet, calibration_set, calibration_set_names
from edgekit.data.calibration.example_feeds import ExampleFeeds
from edgekit.data.calibration.random_inputs import RandomInputs
from edgekit.data.examples import data_set, data_set_names, is_data_set
from edgekit.data.images import preprocess
from edgekit.data.input_statistics import ENOUGH_INPUTS, InputStatistics, statistics_of_inputs, without_padding
from edgekit.device.cpu import cpu
from edgekit.engine.backend import scheme_of
from edgekit.errors import CalibrationError, UsageError, nearest
from edgekit.pipeline.load_model import LoadedModel
from edgekit.progress import Progress, Silent
from edgekit.quantize.calibrate.collect import (
    CalibrationTable,
    channels_from_statistics,
    collect_statistics,
    graph_digest,
    observed_tensors,
    ranges_from_statistics,
)
from edgekit.quantize.calibrate.observers import needs_histogram
from edgekit.quantize.calibrate.table import cached_table, keep_table
from edgekit.quantize.plan import QuantPolicy
from edgekit.quantize.quantize import require_quantizable
from edgekit.specs import Precision, TensorSpec, specs_at, specs_text
from edgekit.storage import cache_folder

__all__ = ["Calibration", "Samples", "calibrate", "calibration_inputs", "measured_ranges"]

DEFAULT_METHOD = "minmax"
DEFAULT_SET = "sample"
RANDOM_INPUTS = 16
HALF_IMAGES = 8
"""Number of images for half precision, which needs to know which ranges overflow, but not their exact limits."""
COMPARED_INPUTS = 8
"""Number of inputs to compare engines on."""
MIN_MAX_INPUTS = 4
"""Number of them that are resized to the min and max shapes."""

Feed: TypeAlias = "dict[str, np.ndarray]"
Samples: TypeAlias = "CalibrationSet | ExampleFeeds | RandomInputs"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The result of a calibration.

    Attributes:
        policy: the layers that stay in float.
        table: the ranges of the float graph's tensors; None if nothing was measured.
        input_statistics: statistics of the inputs; None if they are not those of the user or of the recipe.
        feeds: a few of the inputs, to compare engines on.
        min_max_feeds: the same inputs, resized to the min and the max shapes.
    """

    policy: QuantPolicy = QuantPolicy()
    table: CalibrationTable | None = None
    input_statistics: InputStatistics | None = None
    feeds: Sequence[Feed] = ()
    min_max_feeds: Sequence[Sequence[Feed]] = ()


def calibrate(model: LoadedModel, config: CalibrationConfig, target: TargetConfig, progress: Progress) -> Calibration:
    """Measures the ranges that the target's precision needs; none for FP32 and for models that are already quantized.

    Raises:
        UsageError: the calibration set is unknown, or a pattern of ``keep_float`` matches no node.
        CalibrationError: no input can be read or fits the model, or a tensor has a NaN.
        GraphError: nothing in the graph can be quantized.
    """
    policy = _policy(model, config, target.precision)
    if model.quantized or target.precision is Precision.FP32:
        return Calibration(policy=policy)
    if target.precision is Precision.INT8:
        require_quantizable(model.graph, scheme_of(target), policy)
        samples = calibration_inputs(model, config, progress)
    else:
        config = replace(config, calib_images=config.calib_images or HALF_IMAGES, calib_method="minmax")
        # These inputs only show which ranges overflow, so notes about them do not help the user.
        samples = calibration_inputs(model, config, Silent())
    table = measured_ranges(model, samples, config, threads=target.threads, progress=progress)
    feeds = _first_feeds(samples, model)
    return Calibration(
        policy=policy,
        table=table,
        input_statistics=_input_statistics(samples, model, config),
        feeds=feeds,
        min_max_feeds=_min_max_feeds(feeds[:MIN_MAX_INPUTS], model),
    )


def _input_statistics(samples: Samples, model: LoadedModel, config: CalibrationConfig) -> InputStatistics | None:
    """Returns the statistics of calibration images; the shipped photos need not be like those of the user."""
    own = config.calib or (model.policy.calibration if model.policy else "")
    if model.preprocess is None or not own:
        return None
    feeds = itertools.islice(
        samples.feeds(model.inputs, without_padding(model.preprocess), model.shapes), ENOUGH_INPUTS
    )
    name = model.inputs[0].name
    return statistics_of_inputs((feed[name] for _, feed in feeds), "calibration")


def _policy(model: LoadedModel, config: CalibrationConfig, precision: Precision) -> QuantPolicy:
    """Returns the layers that stay in float. For INT8, a recipe names its heads; in other models they are detected."""
    if precision is not Precision.INT8:
        return QuantPolicy(config.keep_float)
    if model.policy is None:
        return QuantPolicy(config.keep_float, keep_heads=True)
    return QuantPolicy((*model.policy.keep_float, *config.keep_float))


def calibration_inputs(model: LoadedModel, config: CalibrationConfig, progress: Progress) -> Samples:
    """Returns the inputs to calibrate on: the set of the user or the recipe, else shipped images, else random numbers.

    Raises:
        UsageError: the set is unknown.
        CalibrationError: the set is empty.
    """
    named = config.calib or (model.policy.calibration if model.policy else "")
    if config.calib_column is not None:
        if not is_data_set(named):
            got = f"'{named}'" if named else "none"
            raise UsageError(f"--calib-column {config.calib_column}: expected a CSV table with --calib, got {got}")
        return _examples(named, model, config)
    if named:
        return _named_inputs(named, model, config)
    if model.preprocess is None:
        count = config.calib_images or RANDOM_INPUTS
        progress.note(
            f"calibrated on {count} random inputs: the INT8 latency is real, the accuracy is not. "
            "Give real inputs with --calib DIR, a folder of .npy or .npz files"
        )
        return RandomInputs(count, model.num_values)
    samples = calibration_set(DEFAULT_SET, limit=config.calib_images)
    progress.note(
        f"calibrated on the shipped set '{DEFAULT_SET}' of {len(samples)} images; "
        "images of your own task (--calib DIR) keep more accuracy"
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


def measured_ranges(
    model: LoadedModel,
    samples: Samples,
    config: CalibrationConfig,
    *,
    threads: int = 0,
    cache: Path | None = None,
    progress: Progress,
) -> CalibrationTable:
    """Returns the ranges of the graph's tensors: cached from a calibration on the same inputs, or measured now.

    Args:
        model: its float graph is run.
        samples: the inputs.
        config: how ranges are chosen.
        threads: number of threads; 0 is as many as this process may use.
        cache: folder of cached calibrations; None is the user's cache folder.
        progress: receives the stage and its notes.

    Raises:
        CalibrationError: no sample can be read or fits the inputs, or a tensor has a NaN.
    """
    cache = cache_folder() if cache is None else cache
    method = config.calib_method or (model.policy.method if model.policy else "") or DEFAULT_METHOD
    graph, shown = graph_digest(model.graph), _digest_of_feeds(model, samples)
    table = cached_table(cache, graph_digest=graph, set_digest=shown, method=method)
    if table is not None:
        with progress.stage("calibration found in the cache", unit="inputs") as advance:
            advance(table.images)
    else:
        collected = collect_statistics(
            model.graph,
            observed_tensors(model.graph),
            samples.feeds(model.inputs, model.preprocess, model.shapes),
            method=method,
            total=len(samples),
            # By default, ONNX Runtime uses all processors of the host, even in a container with a CPU limit.
            threads=threads or cpu().compute_threads,
            progress=progress,
        )
        table = CalibrationTable(
            method=method,
            set=samples.name,
            set_digest=shown,
            graph_digest=graph,
            images=collected.inputs,
            skipped=tuple(samples.skipped),
            ranges=ranges_from_statistics(collected.statistics, method),
            channels={} if needs_histogram(method) else channels_from_statistics(model.graph, collected.statistics),
        )
        with contextlib.suppress(OSError):  # without a cache, the next build calibrates again
            keep_table(table, cache)
    if table.skipped:
        count = len(table.skipped)
        others = f"; calibration.json lists the other {count - 1}" if count > 1 else ""
        progress.note(f"skipped {count} of {table.images + count} calibration inputs: {table.skipped[0]}{others}")
    return _with_black_and_white(table, model, samples)


def _with_black_and_white(table: CalibrationTable, model: LoadedModel, samples: Samples) -> CalibrationTable:
    """Widens the range of an image input to black..white."""
    # Dark calibration images must not make bright images overflow.
    spec = specs_at(model.inputs, model.shapes)[0]
    shown = not isinstance(samples, CalibrationSet) or samples.has_images
    if model.preprocess is None or not shown or spec.name not in table.ranges:
        return table
    plain = [np.full((1, 1, 3), level, np.uint8) for level in (0, 255)]
    inputs = [preprocess(image, model.preprocess, spec.shape)[0] for image in plain]
    lo, hi = table.ranges[spec.name]
    whole = min(lo, *(float(array.min()) for array in inputs)), max(hi, *(float(array.max()) for array in inputs))
    return msgspec.structs.replace(table, ranges={**table.ranges, spec.name: whole})


def _first_feeds(samples: Samples, model: LoadedModel) -> list[Feed]:
    feeds = samples.feeds(model.inputs, model.preprocess, model.shapes)
    return [arrays for _, arrays in itertools.islice(feeds, COMPARED_INPUTS)]


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


def _digest_of_feeds(model: LoadedModel, samples: Samples) -> str:
    """Returns a hash of everything that determines the inputs of the graph."""
    what = (samples.digest, model.preprocess, [specs_text([spec], model.shapes) for spec in model.inputs])
    return hashlib.sha256(repr(what).encode()).hexdigest()
