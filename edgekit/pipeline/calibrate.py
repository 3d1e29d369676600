"""INT8 as a step of the build: what the model is calibrated on, its ranges measured or found again, its Q/DQ pairs."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias, TypedDict

import msgspec
import numpy as np
import onnx_ir as ir

from edgekit.config import Order
from edgekit.data.calibration.calibration_set import CalibrationSet, calibration_set, calibration_set_names
from edgekit.data.calibration.example_feeds import ExampleFeeds
from edgekit.data.calibration.random_inputs import RandomInputs
from edgekit.data.examples import data_set, data_set_names, is_data_set
from edgekit.data.images import preprocess
from edgekit.device.cpu import cpu
from edgekit.errors import CalibrationError, UsageError, nearest
from edgekit.graph.evaluator import Evaluator
from edgekit.pipeline.load_model import LoadedModel
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
from edgekit.quantize.half.check import rounding_graph
from edgekit.quantize.quantize import quantized_graph, require_quantizable
from edgekit.specs import QuantScheme, TensorSpec, specs_at, specs_text

__all__ = ["Samples", "outputs_of", "feeds_at_min_max", "calibrated", "quantize", "require_int8", "samples_for"]

DEFAULT_METHOD = "minmax"
DEFAULT_SET = "sample"
RANDOM_INPUTS = 16


class Policy(TypedDict):
    """What stays in float."""

    keep_float: tuple[str, ...]
    keep_heads: bool


Samples: TypeAlias = "CalibrationSet | ExampleFeeds | RandomInputs"


def samples_for(source: LoadedModel, order: Order, progress: Progress) -> Samples:
    """What the model is calibrated on: what the user or the recipe names, else photographs, else random numbers.

    Raises:
        UsageError: there is no such set.
        CalibrationError: there is nothing in it.
    """
    named = order.calib or (source.policy.calibration if source.policy else "")
    if order.calib_column is not None:
        if not is_data_set(named):
            got = f"'{named}'" if named else "none"
            raise UsageError(f"--calib-column {order.calib_column}: expected a CSV table with --calib, got {got}")
        return _examples(named, source, order)
    if named:
        return _samples_from_name(named, source, order)
    if source.preprocess is None:
        count = order.calib_images or RANDOM_INPUTS
        progress.note(
            f"calibrated on {count} random inputs: INT8's latency is real, its accuracy is not. "
            "Give real ones with --calib DIR, a folder of .npy or .npz files"
        )
        return RandomInputs(count, source.num_values)
    samples = calibration_set(DEFAULT_SET, limit=order.calib_images)
    progress.note(
        f"calibrated on the shipped set '{DEFAULT_SET}' of {len(samples)} pictures; "
        "pictures of your own task (--calib DIR) keep more accuracy"
    )
    return samples


def _samples_from_name(name: str, source: LoadedModel, order: Order) -> Samples:
    """A calibration set, or of a data set the part that is to learn from, since the other is measured on."""
    try:
        return calibration_set(name, limit=order.calib_images)
    except UsageError as e:
        if not is_data_set(name):
            known = [*calibration_set_names(), *data_set_names()]
            raise UsageError(e.message, hint=e.hint and nearest(name, known)) from e
    except CalibrationError:
        if not is_data_set(name):
            raise
    return _examples(name, source, order)


def _examples(name: str, source: LoadedModel, order: Order) -> ExampleFeeds:
    examples = data_set(name, split="train", target=order.calib_column)
    return ExampleFeeds(examples, limit=order.calib_images, labels=source.labels)


def calibrated(
    source: LoadedModel, samples: Samples, order: Order, cache: Path, progress: Progress
) -> CalibrationTable:
    """The ranges of the graph's tensors: those of an earlier calibration on the same samples, or measured now.

    Raises:
        CalibrationError: no sample can be read or fits the inputs, or a tensor has a NaN.
    """
    method = order.calib_method or (source.policy.method if source.policy else "") or DEFAULT_METHOD
    graph, shown = graph_digest(source.graph), _digest_of_feeds(source, samples)
    table = cached_table(cache, graph_digest=graph, set_digest=shown, method=method)
    if table is not None:
        with progress.stage("calibration found in the cache", unit="inputs") as advance:
            advance(table.images)
    else:
        collected = collect_statistics(
            source.graph,
            observed_tensors(source.graph),
            samples.feeds(source.inputs, source.preprocess, source.shapes),
            method=method,
            total=len(samples),
            # ONNX Runtime would count the host's processors, whatever a container may use.
            threads=order.threads or cpu().compute_threads,
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
            channels={} if needs_histogram(method) else channels_from_statistics(source.graph, collected.statistics),
        )
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
            keep_table(table, cache)
    if table.skipped:
        count = len(table.skipped)
        others = f"; calibration.json lists the other {count - 1}" if count > 1 else ""
        progress.note(f"skipped {count} of {table.images + count} calibration inputs: {table.skipped[0]}{others}")
    return _from_black_to_white(table, source, samples)


def _from_black_to_white(table: CalibrationTable, source: LoadedModel, samples: Samples) -> CalibrationTable:
    """The input's range is all that a picture can hold, however dark those were that the model was shown."""
    spec = specs_at(source.inputs, source.shapes)[0]
    shown = not isinstance(samples, CalibrationSet) or samples.pictures
    if source.preprocess is None or not shown or spec.name not in table.ranges:
        return table
    plain = [np.full((1, 1, 3), level, np.uint8) for level in (0, 255)]
    inputs = [preprocess(picture, source.preprocess, spec.shape)[0] for picture in plain]
    lo, hi = table.ranges[spec.name]
    whole = min(lo, *(float(array.min()) for array in inputs)), max(hi, *(float(array.max()) for array in inputs))
    return msgspec.structs.replace(table, ranges={**table.ranges, spec.name: whole})


def quantize(source: LoadedModel, order: Order, scheme: QuantScheme, table: CalibrationTable) -> int:
    """Puts Q/DQ pairs into the source's graph, in place; how many convolutions and matrix products stay in float."""
    return len(quantized_graph(source.graph, table, scheme, **_policy(source, order)).skipped)


def outputs_of(graph: ir.Model, inputs: Iterable[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """What ``graph`` gives on the processor, output by name, for each of ``inputs``; half precision is rounded to."""
    evaluator = Evaluator(rounding_graph(graph), threads=cpu().compute_threads)
    return [evaluator.run(arrays) for arrays in inputs]


def feeds_at_min_max(feeds: Sequence[dict[str, np.ndarray]], source: LoadedModel) -> list[list[dict[str, np.ndarray]]]:
    """What ``feeds`` show, made to fit the sizes at each end of the ranges that the inputs may have.

    Pictures are stretched, so that all of them is seen; of everything else there is as much as fits, or it is repeated.
    """
    stretched = source.preprocess is not None
    return [
        [{spec.name: _fitted(feed[spec.name], spec, stretched=stretched) for spec in specs} for feed in feeds]
        for specs in source.min_max.sizes
    ]


def _fitted(array: np.ndarray, spec: TensorSpec, *, stretched: bool) -> np.ndarray:
    for axis, size in enumerate(spec.shape):
        own, places = array.shape[axis], np.arange(int(size))
        array = np.take(array, places * own // len(places) if stretched else places % own, axis)
    return array


def require_int8(source: LoadedModel, order: Order, scheme: QuantScheme) -> None:
    """Says what is wrong with the model or the order before time is spent on it.

    Raises:
        GraphError: nothing in the graph can be quantized.
        UsageError: a pattern of what stays in float matches nothing.
    """
    require_quantizable(source.graph, scheme, **_policy(source, order))


def _policy(source: LoadedModel, order: Order) -> Policy:
    """What stays in float: a recipe knows its heads, for other models they are looked for."""
    if source.policy is None:
        return {"keep_float": order.keep_float, "keep_heads": True}
    return {"keep_float": (*source.policy.keep_float, *order.keep_float), "keep_heads": False}


def _digest_of_feeds(source: LoadedModel, samples: Samples) -> str:
    """Hash over all that decides what the graph is shown."""
    what = (samples.digest, source.preprocess, [specs_text([spec], source.shapes) for spec in source.inputs])
    return hashlib.sha256(repr(what).encode()).hexdigest()
