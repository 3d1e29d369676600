"""A graph whose sizes are chosen at run time, looked at with some of them: what it costs, and which ones to try."""

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
"""What may be computed once more to see that the largest inputs come out right: a second or two on a processor."""

_MOST_ROUNDS = 10
_LARGEST_SHAPE = 128
"""Elements of what is computed of shapes. Weights in files of their own have more, and must not be read here: a file
that somebody has read a part of cannot be closed."""

Specs = tuple[TensorSpec, ...]


class MinMaxInputs(NamedTuple):
    """The sizes, besides the usual ones, that a graph is to be tried with.

    Attributes:
        sizes: inputs of the least and of the greatest sizes, where they are not the usual ones.
        skipped: the greatest, where they cost too much to be tried; else nothing.
    """

    sizes: tuple[Specs, ...] = ()
    skipped: Specs = ()


def stats_at(graph: ir.Model, shapes: Mapping[str, Sequence[int]], *, precision: Precision | None = None) -> GraphStats:
    """`stats_from_graph` for inputs of these shapes.

    Args:
        graph: is not changed.
        shapes: numbers by name, of the inputs that have dynamic dimensions.
        precision: see there.
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
    _learn_computed_shapes(sized)
    stats = stats_from_graph(sized, precision=precision)
    return msgspec.structs.replace(stats, assumed_sizes={**names, **stats.assumed_sizes})


def _learn_computed_shapes(graph: ir.Model) -> None:
    """Finds the shapes that a graph computes of others, as for a Reshape: inference gives up there."""
    if all(value.shape is None or value.shape.is_static() for value in _computed(graph)):
        return
    folded = graph.clone(deep_copy=False)
    rounds = ir.passes.PassManager([FoldConstants(_LARGEST_SHAPE), InferShapes()], steps=_MOST_ROUNDS, early_stop=True)
    rounds(folded)
    found = {value.name: value.shape for value in _computed(folded)}
    for value in _computed(graph):
        value.shape = found.get(value.name) or value.shape


def _computed(graph: ir.Model) -> Iterator[ir.Value]:
    return (value for node in graph.graph for value in node.outputs)


def min_max_inputs(graph: ir.Model, shapes: Mapping[str, ShapeRange]) -> MinMaxInputs:
    """The least and the greatest sizes that its inputs may have, for checks that run it.

    Args:
        graph: with dynamic dimensions.
        shapes: their ranges, by input.
    """
    specs = input_specs(graph)
    usual, least, greatest = (specs_at(specs, shapes, which) for which in ("opt", "min", "max"))
    ends = tuple(end for end in (least, greatest) if end != usual)
    if greatest == usual or stats_at(graph, {n: r.max for n, r in shapes.items()}).macs <= CHEAP_MACS:
        return MinMaxInputs(ends)
    return MinMaxInputs(ends[:-1], greatest)
