"""Finds scaled dot-product attention, in the forms in which exporters write it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import onnx_ir as ir

from edgekit.graph.attention.heads import SPLIT, SPLIT_TURNED, Heads, heads_of, merge_after, turned_by
from edgekit.graph.attention.masks import Mask, is_causal, masked_by
from edgekit.graph.attention.walk import (
    DEQUANTIZE,
    DOMAINS,
    MAX_PATH,
    QUANTIZE,
    is_constant,
    only_forwards,
    only_reader_of,
    producer_of,
    rank_of,
    readers_of,
    scaled_by_number,
)
from edgekit.graph.shape_values import number_of, sizes_of, target_of

__all__ = ["Attention", "attention_at", "find_attention"]


@dataclass(frozen=True, eq=False)
class Attention:
    """One attention: ``softmax(scale * query @ key.T + masks) @ value``, batched over the other dimensions.

    Attributes:
        name: name of the Softmax.
        query: ``(..., S, D)``, before the scale and before a Q/DQ pair.
        key: ``(..., L, D)``, likewise; ``(..., D, L)`` if ``key_turned``.
        value: ``(..., L, V)``, before a Q/DQ pair.
        key_turned: the graph has no ``(..., L, D)``: one Transpose splits the heads and turns the key.
        output: ``(..., S, V)``, the output of ``mean``.
        scale: product of all constant factors between ``query``, ``key`` and the Softmax.
        score_scales: the nodes among ``path`` that scale the scores; other factors are applied to the query or the key.
        score_scale: product of the factors of ``score_scales``.
        masks: in the order in which they are applied.
        causal: a mask, which is constant or is computed by Trilu, hides the keys after the query and no others.
        guard: the IsNaN and the Where that make the weights 0 if no key is visible; empty if there are none.
        scores: the product of query and key.
        softmax: the Softmax; it is over the last axis.
        mean: the product of weights and value.
        path: the nodes from ``scores`` to ``mean``; only the next of them reads what each computes.
        pairs: number of Q/DQ pairs among the four factors of the two products.
        heads: number of heads, in the third dimension from the last, if there are four and it is fixed.
        head_size: ``D``, if it is fixed.
        query_heads: how the query was split into heads; None if not by one Transpose.
        key_heads: how the key was split.
        value_heads: how the value was split.
        merge: the Transpose that moves the heads behind the length, if only this reads the output.
    """

    name: str
    query: ir.Value
    key: ir.Value
    value: ir.Value
    key_turned: bool
    output: ir.Value
    scale: float
    score_scales: tuple[ir.Node, ...]
    score_scale: float
    masks: tuple[Mask, ...]
    causal: bool
    guard: tuple[ir.Node, ...]
    scores: ir.Node
    softmax: ir.Node
    mean: ir.Node
    path: tuple[ir.Node, ...]
    pairs: int
    heads: int | None
    head_size: int | None
    query_heads: Heads | None
    key_heads: Heads | None
    value_heads: Heads | None
    merge: ir.Node | None


def find_attention(graph: ir.Model) -> tuple[Attention, ...]:
    """Returns the attentions of a graph, in graph order; subgraphs are not searched.

    An attention is two products of activations with a Softmax over the last axis between them. There may be a scale
    (Mul or Div by a constant: of the query, the key, both, or the scores), masks (Add or Where), Dropout, Q/DQ pairs,
    and casts around the Softmax. It is not found if there is anything else, if a value between the products is read
    elsewhere or is a graph output, if a mask is scaled, or if a rank is unknown.

    Args:
        graph: not modified; values have their inferred types and shapes.
    """
    return tuple(found for node in graph.graph if (found := attention_at(node)) is not None)


def attention_at(softmax: ir.Node) -> Attention | None:
    """Returns the attention that a Softmax is part of; None if it is none; see `find_attention`."""
    if softmax.op_type != "Softmax" or softmax.domain not in DOMAINS:
        return None
    source, rank = softmax.inputs[0], rank_of(softmax.inputs[0])
    if source is None or rank < 3 or softmax.attributes.get_int("axis", -1) not in (-1, rank - 1):
        return None
    weights, scores = _weights_after(softmax), _scores_before(source)
    if weights is None or scores is None:
        return None
    product = scores.path[0]
    a, b, c = product.inputs[0], product.inputs[1], weights.product.inputs[1]
    assert a is not None and b is not None and c is not None
    query, key, value = _factor(a), _factor(b, turns=True), _factor(c, scaled=False)
    output = weights.product.outputs[0]
    scale = scores.scale * query.scale * key.scale
    # The Softmax weighs with the first factor, and batch dimensions are not broadcast.
    if {rank_of(each) for each in (query.value, key.value, value.value, output)} != {rank} or not math.isfinite(scale):
        return None
    key_turned = not key.turned
    sizes = sizes_of(query.value) or ()
    heads, size = sizes[-3], sizes[-1]
    return Attention(
        name=softmax.name or "",
        query=query.value,
        key=key.value,
        value=value.value,
        key_turned=key_turned,
        output=output,
        scale=scale,
        score_scales=tuple(scores.scales),
        score_scale=scores.scale,
        masks=tuple(scores.masks),
        causal=any(is_causal(mask) for mask in scores.masks),
        guard=weights.guard,
        scores=product,
        softmax=softmax,
        mean=weights.product,
        path=(*scores.path, softmax, *weights.path),
        pairs=sum(each.dequantized for each in (query, key, value, weights)),
        heads=heads if rank == 4 and isinstance(heads, int) else None,
        head_size=size if isinstance(size, int) else None,
        query_heads=heads_of(query.value, SPLIT),
        key_heads=heads_of(key.value, SPLIT_TURNED if key_turned else SPLIT),
        value_heads=heads_of(value.value, SPLIT),
        merge=merge_after(output),
    )


@dataclass(eq=False)
class _Scores:
    """What was found from the Softmax back to the product, which is the first of ``path``.

    Attributes:
        view: the Reshape back from another rank, while the one to it was not found yet.
    """

    path: list[ir.Node] = field(default_factory=list)
    scales: list[ir.Node] = field(default_factory=list)
    scale: float = 1.0
    masks: list[Mask] = field(default_factory=list)
    view: ir.Node | None = None


@dataclass(eq=False)
class _Weights:
    """What was found between the Softmax and the product."""

    product: ir.Node
    path: list[ir.Node] = field(default_factory=list)
    guard: tuple[ir.Node, ...] = ()
    dequantized: bool = False


@dataclass(eq=False)
class _Factor:
    """A factor of a product, before its scale, its Q/DQ pair and the Transpose of its last two dimensions."""

    value: ir.Value
    scale: float = 1.0
    dequantized: bool = False
    turned: bool = False


def _weights_after(softmax: ir.Node) -> _Weights | None:
    """Follows the weights from the Softmax to the product with the values."""
    value, path, dequantized = softmax.outputs[0], list[ir.Node](), False
    guard: tuple[ir.Node, ...] = ()
    while True:
        guarded = _guard_after(value)
        if guarded is not None and not guard:
            guard, node = guarded, guarded[1]
            path.append(guarded[0])
        else:
            found = only_reader_of(value)
            if found is None or found.inputs[0] is not value:
                return None
            node = found
        path.append(node)
        if node.op_type == "MatMul":
            computed = not is_constant(node.inputs[1]) and node.inputs[1] is not value
            return _Weights(node, path, guard, dequantized) if computed else None
        if not (node in guard or only_forwards(node)):
            return None
        dequantized |= node.op_type == DEQUANTIZE
        value = node.outputs[0]


def _guard_after(value: ir.Value) -> tuple[ir.Node, ir.Node] | None:
    """Returns the nodes of ``Where(IsNaN(value), 0, value)``, if only they read ``value``."""
    readers = sorted(readers_of(value), key=lambda node: node.op_type)
    if [node.op_type for node in readers] != ["IsNaN", "Where"]:
        return None
    check, choice = readers
    chosen = choice.inputs[0] is check.outputs[0] and choice.inputs[2] is value and number_of(choice.inputs[1]) == 0
    return (check, choice) if chosen and only_reader_of(check.outputs[0]) is choice else None


def _scores_before(value: ir.Value) -> _Scores | None:
    """Follows the scores from the Softmax back to the product of queries and keys."""
    found = _Scores()
    while len(found.path) < MAX_PATH and len(readers_of(value)) == 1 and (node := producer_of(value)) is not None:
        found.path.insert(0, node)
        if node.op_type == "MatMul":
            computed = not any(is_constant(each) for each in node.inputs)
            return found if computed and found.view is None else None
        before = _score_before(node, found)
        if before is None:
            return None
        value = before
    return None


def _score_before(node: ir.Node, found: _Scores) -> ir.Value | None:
    """Adds what ``node`` does to the scores to ``found``; returns the scores before; None if it does something else."""
    if node.op_type == "Reshape":
        return _score_before_view(node, found)
    if only_forwards(node):
        return node.inputs[0]
    scaled = scaled_by_number(node)
    if scaled is not None:
        found.scale *= scaled[1]
        found.scales.insert(0, node)
        return scaled[0]
    # A scale that is applied later scales a mask too.
    masked = masked_by(node, in_view=found.view is not None) if not found.scales else None
    if masked is None:
        return None
    found.masks.insert(0, masked[1])
    return masked[0]


def _score_before_view(node: ir.Node, found: _Scores) -> ir.Value | None:
    """Goes back through one of the two Reshapes around a mask in another rank."""
    source = node.inputs[0]
    if source is None or found.view is None:
        found.view = node
        return source
    after, before = target_of(found.view), sizes_of(source)
    found.view = None
    return source if before is not None and before == after and None not in before else None


def _factor(value: ir.Value, *, scaled: bool = True, turns: bool = False) -> _Factor:
    """Goes back from a factor of a product to what is scaled, quantized and, with ``turns``, turned."""
    found = _Factor(value)
    while (node := producer_of(found.value)) is not None:
        before = None
        if node.op_type == DEQUANTIZE and (quantize := producer_of(node.inputs[0])) is not None:
            if quantize.op_type == QUANTIZE and list(quantize.inputs[1:]) == list(node.inputs[1:]):
                before, found.dequantized = quantize.inputs[0], True
        elif turns and not found.turned and (turned := turned_by(node)) is not None:
            before, found.turned = turned, True
        elif scaled and (of_number := scaled_by_number(node)) is not None:
            before = of_number[0]
            found.scale *= of_number[1]
        if before is None:
            break
        found.value = before
    return found
