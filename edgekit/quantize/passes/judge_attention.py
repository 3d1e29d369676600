"""Measures what 8 bits do to attention, chooses the range of its weights, and finds attentions that lose too much.

The weights of an attention have one scale for all queries. Where some queries attend to one key and others to a
thousand, the weights of the latter are a few steps, or none, and no later layer can mend that. A smaller range has
finer steps, and cuts off the largest weights. Which is better depends on the network's weights and not on its sizes,
so that it is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgekit.graph.evaluator import Evaluator
from edgekit.graph.insert import new_initializer
from edgekit.quantize.integer_attention import IntegerAttention, integer_attentions, part_source
from edgekit.quantize.qdq import parameters_from_range
from edgekit.quantize.selections import range_source
from edgekit.specs import QuantScheme

__all__ = ["LEAST_DB", "JudgedAttentions", "inserted_pair", "judged_attentions"]

Range = tuple[float, float]

LEAST_DB = 22.0
"""Least signal-to-noise ratio of an attention whose four factors have 8 bits; with others' noise, 20 dB are left."""
INPUTS = 4
"""Number of inputs that attentions are computed on."""
PARTS = (1.0, 0.7, 0.5, 0.35, 0.25)
"""Ranges of the weights that are tried, as parts of the largest."""
MIN_GAIN_DB = 1.0
"""Least gain of a smaller range: inputs that were not seen may have larger weights."""


class JudgedAttentions(NamedTuple):
    """What was found.

    Attributes:
        noisy: names of the products of attentions that have less than `LEAST_DB` with any range.
        ranges: min and max of the weights of the others by name, where a smaller range than the largest is better.
        decibels: best signal-to-noise ratio of each attention, by the name of its Softmax.
    """

    noisy: frozenset[str] = frozenset()
    ranges: Mapping[str, Range] = {}
    decibels: Mapping[str, float] = {}


class _Branch(NamedTuple):
    """An attention, the name of its result, and the names of its results with rounded factors, one for each part."""

    found: IntegerAttention
    exact: str
    rounded: tuple[str, ...]


def judged_attentions(
    graph: ir.Model,
    scheme: QuantScheme,
    ranges: Mapping[str, Range],
    feeds: Sequence[Mapping[str, np.ndarray]],
    *,
    threads: int = 0,
) -> JudgedAttentions:
    """Computes each attention that can run on integers with rounded factors, from exact queries, keys and values.

    Args:
        graph: the float graph; not modified.
        scheme: chooses the attentions.
        ranges: min and max of each tensor by name.
        feeds: inputs; empty: nothing is measured.
        threads: for ONNX Runtime; 0: its default.
    """
    graph = graph.clone(deep_copy=False)
    attentions = [each for each in integer_attentions(graph, scheme, {}) if feeds and _sources(each) <= ranges.keys()]
    if not attentions:
        return JudgedAttentions()
    branches = [_with_rounded_factors(graph, each, ranges) for each in attentions]
    names = [name for branch in branches for name in (branch.exact, *branch.rounded)]
    evaluator = Evaluator(graph, also=names, threads=threads, optimized=True)
    signal, noise = np.zeros((len(branches), 1)), np.zeros((len(branches), len(PARTS)))
    for feed in feeds[:: -(-len(feeds) // INPUTS)]:
        results = evaluator.run(dict(feed))
        for index, branch in enumerate(branches):
            exact = results[branch.exact].astype(np.float64)
            signal[index] += np.square(exact).sum()
            noise[index] += [np.square(results[name] - exact).sum() for name in branch.rounded]
    decibels = 10 * np.log10(np.maximum(signal, 1e-30) / np.maximum(noise, 1e-30))
    return _judged(attentions, decibels, ranges)


def _judged(
    attentions: Sequence[IntegerAttention], decibels: np.ndarray, ranges: Mapping[str, Range]
) -> JudgedAttentions:
    noisy, chosen, best_of = set(), dict[str, Range](), {}
    for found, of_parts in zip(attentions, decibels, strict=True):
        best = int(of_parts.argmax())
        best = best if of_parts[best] >= of_parts[0] + MIN_GAIN_DB else 0
        best_of[found.attention.name] = float(of_parts[best])
        if of_parts[best] < LEAST_DB:
            noisy |= {node.name or "" for node in (found.attention.scores, found.attention.mean)}
        elif best:
            name = str(range_source(found.weights).name)
            chosen[name] = ranges[name][0], ranges[name][1] * PARTS[best]
    return JudgedAttentions(frozenset(noisy), chosen, best_of)


def _sources(found: IntegerAttention) -> set[str]:
    return {str(part_source(value).name) for value in found.signed} | {str(range_source(found.weights).name)}


def _with_rounded_factors(graph: ir.Model, found: IntegerAttention, ranges: Mapping[str, Range]) -> _Branch:
    """Computes an attention once more with rounded factors, and its last product for each part of the range."""
    mean = found.attention.mean
    # Keys are rounded as the product reads them: ONNX Runtime 1.32 moves a pair through a Transpose, and makes an
    # invalid node of it in opset 21.
    factors = (*found.attention.scores.inputs, mean.inputs[1])
    new = {
        value: inserted_pair(graph, value, ranges[str(part_source(source).name)], "int8", mean)
        for value, source in zip(factors, found.signed, strict=True)
        if value is not None
    }
    for node in found.attention.path[:-1]:
        new |= _copied(graph, node, new, "rounded", mean)
    lo, hi = ranges[str(range_source(found.weights).name)]
    weights, rounded = new[found.weights], []
    for part in PARTS:
        new[found.weights] = inserted_pair(graph, weights, (lo, hi * part), "uint8", mean)
        result = _copied(graph, mean, new, f"rounded_{part}", mean)[mean.outputs[0]]
        rounded.append(str(result.name))
    return _Branch(found, str(mean.outputs[0].name), tuple(rounded))


def _copied(
    graph: ir.Model, node: ir.Node, new: Mapping[ir.Value, ir.Value], suffix: str, place: ir.Node
) -> dict[ir.Value, ir.Value]:
    """Inserts a copy of ``node`` before ``place`` that reads ``new`` values; returns its outputs by the node's own."""
    inputs = [value if value is None else new.get(value, value) for value in node.inputs]
    attributes = list(node.attributes.values())
    copy = ir.Node(node.domain, node.op_type, inputs, attributes, num_outputs=len(node.outputs))
    copy.name = f"{node.name}.{suffix}"
    graph.graph.insert_before(place, copy)
    for before, after in zip(node.outputs, copy.outputs, strict=True):
        after.name, after.type, after.shape = f"{before.name}.{suffix}", before.type, before.shape
    return dict(zip(node.outputs, copy.outputs, strict=True))


def inserted_pair(graph: ir.Model, value: ir.Value, limits: Range, dtype: str, place: ir.Node) -> ir.Value:
    """Inserts a Q/DQ pair of ``value`` before ``place``, and returns its result."""
    how = parameters_from_range(*limits, dtype)
    scale = new_initializer(graph, f"{value.name}.scale_for_{place.name}", np.array(how.scale))
    zero_point = new_initializer(graph, f"{value.name}.zero_point_for_{place.name}", how.zero_point)
    quantize = ir.node("QuantizeLinear", [value, scale, zero_point], name=f"{scale.name}.quantize")
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero_point], name=f"{scale.name}.dequantize")
    for node in (quantize, dequantize):
        node.outputs[0].name = f"{node.name}.output"
    graph.graph.insert_before(place, [quantize, dequantize])
    return dequantize.outputs[0]
