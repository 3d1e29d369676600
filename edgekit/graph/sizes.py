"""Evaluates graphs with dynamic dimensions at given sizes: statistics, and min and max shapes for checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import onnx_ir as ir

from edgekit.graph.file import input_specs, set_input_shapes
from edgekit.graph.passes import FoldConstants, InferShapes
from edgekit.graph.stats import GraphStats, stats_from_graph
from edgekit.specs import Precision, ShapeRange, TensorSpec, specs_at

__all__ = ["MinMaxInputs", "min_max_inputs", "stats_at"]

CHEAP_MACS = 20_000_000_000
"""Largest cost of an extra check run with the max shapes: one or two seconds on a CPU."""

_MAX_ROUNDS = 10
_MAX_SHAPE_ELEMENTS = 128
"""Size limit of the constants folded to compute shapes. It excludes external weights, which must not be read here: a
partly read file cannot be closed."""

Specs = tuple[TensorSpec, ...]


class MinMaxInputs(NamedTuple):
    """Min and max shapes to check a graph with, in addition to the ``opt`` shapes.

    Attributes:
        sizes: inputs with the min and max shapes, if they differ from the ``opt`` shapes.
        skipped: the inputs with max shapes if running them costs too much; otherwise empty.
    """

    sizes: tuple[Specs, ...] = ()
    skipped: Specs = ()


def stats_at(graph: ir.Model, shapes: Mapping[str, Sequence[int]], *, precision: Precision | None = None) -> GraphStats:
    """Computes `stats_from_graph` for given input shapes.

    Args:
        graph: the graph; it is not changed.
        shapes: fixed shapes of the inputs with dynamic dimensions, by input name.
        precision: see `stats_from_graph`.
    """
    if not shapes:
        return stats_from_graph(graph, precision=precision)
    names = {
        own: size
        for spec in input_specs(graph)
        for own, size in zip(spec.shape, shapes.get(spec.name, ()), strict=False)
        if isinstance(own, str)
    }
    sized = graph.clone(deep_copy=False)
    set_input_shapes(sized, shapes)
    _infer_computed_shapes(sized)
    stats = stats_from_graph(sized, precision=precision)
    return msgspec.structs.replace(stats, assumed_sizes={**names, **stats.assumed_sizes})


def _infer_computed_shapes(graph: ir.Model) -> None:
    """Infers shapes that the graph itself computes, as for a Reshape, which ONNX's inference cannot."""
    if all(value.shape is None or value.shape.is_static() for value in _computed(graph)):
        return
    folded = graph.clone(deep_copy=False)
    rounds = ir.passes.PassManager(
        [FoldConstants(_MAX_SHAPE_ELEMENTS), InferShapes()], steps=_MAX_ROUNDS, early_stop=True
    )
    rounds(folded)
    found = {value.name: value.shape for value in _computed(folded)}
    for value in _computed(graph):
        value.shape = found.get(value.name) or value.shape


def _computed(graph: ir.Model) -> Iterator[ir.Value]:
    return (value for node in graph.graph for value in node.outputs)


def min_max_inputs(graph: ir.Model, shapes: Mapping[str, ShapeRange]) -> MinMaxInputs:
    """Returns the inputs with min and max shapes for checks that run the graph.

    Args:
        graph: a graph with dynamic dimensions.
        shapes: shape ranges by input name.
    """
    specs = input_specs(graph)
    opt, min_, max_ = (specs_at(specs, shapes, which) for which in ("opt", "min", "max"))
    sizes = tuple(each for each in (min_, max_) if each != opt)
    if max_ == opt or stats_at(graph, {n: r.max for n, r in shapes.items()}).macs <= CHEAP_MACS:
        return MinMaxInputs(sizes)
    return MinMaxInputs(sizes[:-1], max_)
