"""Calibration: measures the ranges of a model's tensors on its inputs, or reads them from the cache."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np

from edgekit.arguments import argument
from edgekit.config import CalibrationConfig, TargetConfig
from edgekit.data.calibration.calibration_set import CalibrationSet
from edgekit.data.calibration.given_samples import GivenSamples
from edgekit.data.images import preprocess
from edgekit.data.input_statistics import (
    ENOUGH_INPUTS,
    InputStatistics,
    statistics_of_inputs,
    without_padding,
)
from edgekit.device.cpu import cpu
from edgekit.engine.backend import scheme_of
from edgekit.pipeline.inputs import Feed, Inputs, Samples
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.pipeline.quant_policy import quant_policy
from edgekit.progress import Progress
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
from edgekit.quantize.dynamic import require_dynamic
from edgekit.quantize.passes.observed_channels import ObservedChannels
from edgekit.quantize.plan import QuantPolicy
from edgekit.quantize.quantize import require_quantizable
from edgekit.recipe.schema import Preprocess
from edgekit.specs import Precision, TensorSpec, specs_at, specs_text
from edgekit.storage import cache_folder

__all__ = ["Calibration", "calibrate", "measured_ranges"]

DEFAULT_METHOD = "minmax"
_BEYOND = 0.05
"""Of the range of images: how far resizing and rounding may lead arrays of images out of it."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The result of a calibration.

    Attributes:
        policy: the layers that stay in float.
        table: the ranges of the float graph's tensors; None if nothing was measured.
        input_statistics: statistics of the inputs; None if they are not those of the user or of the recipe.
        feeds: some of the inputs, to see what rounding does to them; empty if nothing is calibrated.
        lost_in_half: names of values that stay in float32 where the rest of an INT8 graph is in half precision.
        channels: what was observed of the float graph on ``feeds``; the same object in each trial.
    """

    policy: QuantPolicy = QuantPolicy()
    table: CalibrationTable | None = None
    input_statistics: InputStatistics | None = None
    feeds: Sequence[Feed] = ()
    lost_in_half: Collection[str] = ()
    channels: ObservedChannels = field(default_factory=ObservedChannels)


def calibrate(
    model: LoadedModel, inputs: Inputs, config: CalibrationConfig, target: TargetConfig, progress: Progress
) -> Calibration:
    """Measures the ranges that the target's precision needs.

    FP32, dynamic and weight-only INT8, and models that are already quantized need none.

    Raises:
        UsageError: a pattern of ``keep_float`` matches no node.
        CalibrationError: no input can be read or fits the model, or a tensor has a NaN.
        GraphError: nothing in the graph can be quantized.
    """
    policy = quant_policy(model, config, target.precision)
    if model.quantized or target.precision is Precision.FP32:
        return Calibration(policy=policy)
    if target.uncalibrated:
        require_dynamic(model.graph, scheme_of(target), policy, lstm=target.dynamic)
        return Calibration(policy=policy)
    if target.precision is Precision.INT8:
        require_quantizable(model.graph, scheme_of(target), policy)
    else:
        config = replace(config, calib_method="minmax")
    method = config.calib_method or (model.policy.method if model.policy else "") or DEFAULT_METHOD
    tables = measured_ranges(model, inputs.samples, (method,), threads=target.threads, progress=progress)
    return Calibration(
        policy=policy,
        table=tables[method],
        input_statistics=_input_statistics(inputs.samples, model, config),
        feeds=inputs.feeds,
    )


def _input_statistics(samples: Samples, model: LoadedModel, config: CalibrationConfig) -> InputStatistics | None:
    """Returns the statistics of calibration images; the shipped photos need not be like those of the user."""
    own = config.calib or (model.policy.calibration if model.policy else "")
    if model.preprocess is None or not own:
        return None
    how = without_padding(model.preprocess)
    feeds = itertools.islice(samples.feeds(model.inputs, how, model.shapes), ENOUGH_INPUTS)
    name = model.inputs[0].name
    return statistics_of_inputs((feed[name] for _, feed in feeds), "calibration")


def measured_ranges(
    model: LoadedModel,
    samples: Samples,
    methods: Sequence[str],
    *,
    threads: int = 0,
    cache: Path | None = None,
    progress: Progress,
) -> dict[str, CalibrationTable]:
    """Returns the ranges of the graph's tensors by method: cached from a calibration on the same inputs, or measured.

    The graph runs once for all methods that are not cached.

    Args:
        model: its float graph is run.
        samples: the inputs.
        methods: how ranges are chosen.
        threads: number of threads; 0 is as many as this process may use.
        cache: folder of cached calibrations; None is the user's cache folder.
        progress: receives the stage and its notes.

    Raises:
        CalibrationError: no sample can be read or fits the inputs, or a tensor has a NaN.
    """
    cache = cache_folder() if cache is None else cache
    graph, shown = graph_digest(model.graph), _digest_of_feeds(model, samples)
    cached = {each: cached_table(cache, graph_digest=graph, set_digest=shown, method=each) for each in methods}
    tables = {method: table for method, table in cached.items() if table is not None}
    if missing := [method for method in methods if method not in tables]:
        collected = collect_statistics(
            model.graph,
            observed_tensors(model.graph),
            samples.feeds(model.inputs, model.preprocess, model.shapes),
            method=max(missing, key=needs_histogram),  # a histogram serves all methods
            total=len(samples),
            # By default, ONNX Runtime uses all processors of the host, even in a container with a CPU limit.
            threads=threads or cpu().compute_threads,
            progress=progress,
        )
        for method in missing:
            tables[method] = CalibrationTable(
                method=method,
                set=samples.name,
                set_digest=shown,
                graph_digest=graph,
                images=collected.inputs,
                skipped=tuple(samples.skipped),
                ranges=ranges_from_statistics(collected.statistics, method),
                typical={name: seen.typical for name, seen in collected.statistics.items()},
                channels={} if needs_histogram(method) else channels_from_statistics(model.graph, collected.statistics),
            )
            with contextlib.suppress(OSError):  # without a cache, the next build calibrates again
                keep_table(tables[method], cache)
    else:
        with progress.stage("calibration found in the cache", unit="inputs") as advance:
            advance(tables[methods[0]].images)
    table = tables[methods[0]]
    if table.skipped:
        count = len(table.skipped)
        others = f"; calibration.json lists the other {count - 1}" if count > 1 else ""
        progress.note(f"skipped {count} of {table.images + count} calibration inputs: {table.skipped[0]}{others}")
    spec = specs_at(model.inputs, model.shapes)[0]
    if model.preprocess is None or spec.name not in table.ranges:
        return tables
    ends = _black_and_white(model.preprocess, spec)
    if not isinstance(samples, (CalibrationSet, GivenSamples)) or samples.has_images:
        return {method: _widened(each, spec.name, ends) for method, each in tables.items()}
    _note_other_values(spec.name, table.ranges[spec.name], ends, progress)
    return tables


def _black_and_white(how: Preprocess, spec: TensorSpec) -> tuple[float, float]:
    """Returns the least and the greatest value that an image has in the input."""
    plain = [np.full((1, 1, 3), level, np.uint8) for level in (0, 255)]
    inputs = np.stack([preprocess(image, how, spec.shape)[0] for image in plain])
    return float(inputs.min()), float(inputs.max())


def _widened(table: CalibrationTable, name: str, ends: tuple[float, float]) -> CalibrationTable:
    """Widens the range of an image input to black..white."""
    # Dark calibration images must not make bright images overflow.
    lo, hi = table.ranges[name]
    whole = min(lo, ends[0]), max(hi, ends[1])
    return msgspec.structs.replace(table, ranges={**table.ranges, name: whole})


def _note_other_values(name: str, found: tuple[float, float], ends: tuple[float, float], progress: Progress) -> None:
    """Notes that calibration arrays have values that images never have with this preprocessing."""
    beyond = max(ends[0] - found[0], found[1] - ends[1])
    if beyond > _BEYOND * (ends[1] - ends[0]):
        progress.note(
            f"input '{name}': the calibration arrays have values from {found[0]:.3g} to {found[1]:.3g}, but images "
            f"become values from {ends[0]:.3g} to {ends[1]:.3g}: set the preprocessing of the arrays with "
            f"{argument('preprocess')}, such as mean=… and std=…, before the engine is run on image files"
        )


def _digest_of_feeds(model: LoadedModel, samples: Samples) -> str:
    """Returns a hash of everything that determines the inputs of the graph."""
    what = (samples.digest, model.preprocess, [specs_text([spec], model.shapes) for spec in model.inputs])
    return hashlib.sha256(repr(what).encode()).hexdigest()
