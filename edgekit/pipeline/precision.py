"""Precision: types the graph for the target, with Q/DQ pairs for INT8 and casts for FP16 and BF16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import onnx_ir as ir

from edgekit.arguments import either
from edgekit.config import TargetConfig
from edgekit.device.cpu import cpu
from edgekit.engine.backend import scheme_of
from edgekit.graph.operators import RECURRENT
from edgekit.pipeline.calibrate import Calibration
from edgekit.pipeline.half import safe_half_graph
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.progress import Progress
from edgekit.quantize.bodies import NEVER_RAN, inputs_that_choose, products_in_bodies
from edgekit.quantize.calibrate.collect import CalibrationTable
from edgekit.quantize.dynamic import dynamic_graph, weight_only_graph
from edgekit.quantize.half.cast import half_from_graph
from edgekit.quantize.plan import NEEDS_ZERO_POINT, NOISY_INPUT
from edgekit.quantize.qdq import FloatFactors
from edgekit.quantize.quantize import quantized_from_graph
from edgekit.specs import Precision
from edgekit.text import some_of

__all__ = ["NAMED_PARTS", "TypedGraph", "typed_graph"]

NAMED_PARTS = 4
"""Number of layers that a note names."""


class TypedGraph(NamedTuple):
    """A graph whose element types are those of the engine.

    Attributes:
        graph: shares the weights that did not change with the model's float graph.
        kept_in_float: number of layers that stay in float; None if the graph is unchanged.
        exact: weights and biases of its products on integers before they were rounded, by the product's name.
        noisy_inputs: names of the layers that stay in float because they lose much by the rounding of their inputs.
    """

    graph: ir.Model
    kept_in_float: int | None = None
    exact: Mapping[str, FloatFactors] = MappingProxyType({})
    noisy_inputs: frozenset[str] = frozenset()


def typed_graph(model: LoadedModel, calibration: Calibration, target: TargetConfig, progress: Progress) -> TypedGraph:
    """Types the model's graph in the target's precision; the model's own graph does not change.

    Raises:
        GraphError: the graph cannot be typed in this precision.
        CalibrationError: a tensor has no range.
        UsageError: a pattern of ``keep_float`` matches no node.
    """
    table = calibration.table
    if model.quantized:
        progress.note("the model is already quantized and is built unchanged: nothing was calibrated or kept in float")
        return TypedGraph(model.graph)
    if target.uncalibrated:
        return _uncalibrated_graph(model, calibration, target, progress)
    if target.precision is Precision.FP32 or table is None:
        return TypedGraph(model.graph)
    if target.precision is Precision.INT8:
        with progress.stage("quantizing"):
            return _int8_graph(model, table, calibration, target, progress)
    with progress.stage(f"typing the graph in {str(target.precision).upper()}"):
        half = safe_half_graph(model, calibration, target.precision, progress, io=target.half_io)
    return TypedGraph(half.graph, len(half.kept))


def _uncalibrated_graph(
    model: LoadedModel, calibration: Calibration, target: TargetConfig, progress: Progress
) -> TypedGraph:
    quantized = dynamic_graph if target.dynamic else weight_only_graph
    with progress.stage("quantizing weights"):
        found = quantized(model.graph, scheme_of(target), calibration.policy)
    recurrent = {node.name or "" for node in model.graph.graph.all_nodes() if node.op_type in RECURRENT}
    for name in sorted(recurrent & found.skipped.keys()):
        progress.note(f"stays in float on {target.target}: {name}: {found.skipped[name]}")
    return TypedGraph(found.graph, len(found.skipped))


def _int8_graph(
    model: LoadedModel, table: CalibrationTable, calibration: Calibration, target: TargetConfig, progress: Progress
) -> TypedGraph:
    scheme = scheme_of(target)
    graph, plan, exact, ranges = quantized_from_graph(
        model.graph,
        table,
        scheme,
        calibration.policy,
        feeds=calibration.feeds,
        threads=target.threads or cpu().compute_threads,
        channels=calibration.channels,
    )
    if unsigned := [name for name, reason in plan.skipped.items() if reason == NEEDS_ZERO_POINT]:
        progress.note(f"stays in float on {target.target}: {', '.join(unsigned)}: {NEEDS_ZERO_POINT}")
    if unseen := [name for name, reason in plan.skipped.items() if reason == NEVER_RAN]:
        progress.note(
            f"stays in float inside of If, Loop or Scan: {some_of(unseen, NAMED_PARTS)}: {NEVER_RAN}. Calibrate on "
            f"inputs for which it runs{_or_fixed(model.graph)}"
        )
    inside = [] if scheme.bodies else products_in_bodies(model.graph)
    if inside:
        progress.note(_float_bodies(model.graph, target.target, [node.name or "" for node in inside]))
    if scheme.rest is not Precision.FP32:
        # Layers that stay in float become half too: an FP32 layer between INT8 layers costs more time than they save.
        graph = half_from_graph(
            graph, scheme.rest, {**table.ranges, **ranges}, io=target.half_io, lost=calibration.lost_in_half
        ).graph
    noisy = frozenset(name for name, reason in plan.skipped.items() if reason == NOISY_INPUT)
    return TypedGraph(graph, len(plan.skipped) + len(inside), exact, noisy)


def _float_bodies(graph: ir.Model, target: str, names: Sequence[str]) -> str:
    """Says which products inside of If, Loop and Scan stay in float, and which inputs can be fixed to avoid it."""
    text = f"stays in float inside of If, Loop or Scan, where {target} computes no integers"
    return f"{text}: {some_of(names, NAMED_PARTS)}{_or_fixed(graph, start='. Fix')}"


def _or_fixed(graph: ir.Model, start: str = ", or fix") -> str:
    if not (inputs := inputs_that_choose(graph)):
        return ""
    fix = either(f"--input {inputs[0]}=VALUE", f"input={{'{inputs[0]}': VALUE}}")
    return f"{start} the input that chooses the branch, if it never changes: {fix}"
