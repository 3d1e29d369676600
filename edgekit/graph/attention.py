"""Finds scaled dot-product attention in a graph, in the forms in which exporters write it. Changes nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir

from edgekit.graph.shape_values import elements_of, number_of, sizes_of, target_of

__all__ = ["HIDING", "Attention", "Heads", "Mask", "attention_at", "find_attention", "is_causal"]

HIDING = -1e4
"""What is added to a score, or replaces it, hides the key if it is this or less: ``exp(-1e4)`` is 0, and half precision
ends at -65504."""

_DOMAINS = ("", "ai.onnx")
_SPLIT, _SPLIT_TURNED, _SPLIT_PACKED = (0, 2, 1, 3), (0, 2, 3, 1), (2, 0, 3, 1, 4)
_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_MAX_MASK_ELEMENTS = 1 << 24
_MAX_PATH = 64
"""Nodes between a Softmax and a product. Exporters write ten or fewer."""


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask of the scores.

    Attributes:
        kind: ``added``: floats that are added to the scores; ``visible``: booleans, true where a query may attend to a
            key; ``hidden``: booleans, true where it may not.
        value: the mask; broadcasts to the scores, or to ``view``.
        node: the Add or Where that applies it.
        fill: the score of a hidden key, if the mask is boolean.
        view: the view of the scores in another rank that the mask is added to (Swin masks the windows of an image), if
            there is one: the output of a Reshape.
    """

    kind: Literal["added", "visible", "hidden"]
    value: ir.Value
    node: ir.Node
    fill: float = -math.inf
    view: ir.Value | None = None


@dataclass(frozen=True, eq=False)
class Heads:
    """How a factor was split into heads, with one Transpose.

    Attributes:
        source: before the Transpose: ``(N, length, heads, size)``; or ``(N, length, 3, heads, size)`` if queries, keys
            and values are one tensor.
        index: place of the factor among queries, keys and values in one tensor; None if it is the only one in
            ``source``.
        transpose: the Transpose that moves the heads in front of the length.
    """

    source: ir.Value
    index: int | None
    transpose: ir.Node


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


def attention_at(softmax: ir.Node) -> Attention | None:
    """Returns the attention that a Softmax is part of; None if it is none; see `find_attention`."""
    if softmax.op_type != "Softmax" or softmax.domain not in _DOMAINS:
        return None
    source, rank = softmax.inputs[0], _rank(softmax.inputs[0])
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
    if {_rank(each) for each in (query.value, key.value, value.value, output)} != {rank} or not math.isfinite(scale):
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
        query_heads=_heads_of(query.value, _SPLIT),
        key_heads=_heads_of(key.value, _SPLIT_TURNED if key_turned else _SPLIT),
        value_heads=_heads_of(value.value, _SPLIT),
        merge=_merge_after(output),
    )


def _rank(value: ir.Value | None) -> int:
    """Returns the number of dimensions; 0 if it is unknown."""
    return len(value.shape) if value is not None and value.shape is not None else 0


def _constant(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer() and not value.is_graph_input()


def _producer(value: ir.Value | None) -> ir.Node | None:
    """Returns the standard operator that computes ``value``, in the graph itself."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.domain in _DOMAINS else None


def _readers(value: ir.Value) -> list[ir.Node]:
    """Returns the nodes that read ``value``; empty if it is a graph output, or read in a subgraph."""
    nodes = [use.node for use in value.uses()]
    own = value.producer()
    inside = own is None or all(node.graph is own.graph for node in nodes)
    return nodes if inside and not value.is_graph_output() else []


def _only_reader(value: ir.Value) -> ir.Node | None:
    readers = _readers(value)
    return readers[0] if len(readers) == 1 and readers[0].domain in _DOMAINS else None


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
            found = _only_reader(value)
            if found is None or found.inputs[0] is not value:
                return None
            node = found
        path.append(node)
        if node.op_type == "MatMul":
            computed = not _constant(node.inputs[1]) and node.inputs[1] is not value
            return _Weights(node, path, guard, dequantized) if computed else None
        if not (node in guard or _only_forwards(node)):
            return None
        dequantized |= node.op_type == _DEQUANTIZE
        value = node.outputs[0]


def _guard_after(value: ir.Value) -> tuple[ir.Node, ir.Node] | None:
    """Returns the nodes of ``Where(IsNaN(value), 0, value)``, if only they read ``value``."""
    readers = sorted(_readers(value), key=lambda node: node.op_type)
    if [node.op_type for node in readers] != ["IsNaN", "Where"]:
        return None
    check, choice = readers
    chosen = choice.inputs[0] is check.outputs[0] and choice.inputs[2] is value and number_of(choice.inputs[1]) == 0
    return (check, choice) if chosen and _only_reader(check.outputs[0]) is choice else None


def _only_forwards(node: ir.Node) -> bool:
    """Whether ``node`` changes nothing but the element type: an Identity, a Dropout when not training, a Q/DQ pair."""
    if node.op_type == "Dropout":
        trains = node.inputs[2] if len(node.inputs) > 2 else None
        unmasked = all(not mask.uses() and not mask.is_graph_output() for mask in node.outputs[1:])
        return unmasked and (trains is None or number_of(trains) == 0)
    if node.op_type == "Cast":
        source = node.inputs[0]
        return source is not None and _is_float(source) and _is_float(node.outputs[0])
    return node.op_type in ("Identity", _QUANTIZE, _DEQUANTIZE)


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def _scores_before(value: ir.Value) -> _Scores | None:
    """Follows the scores from the Softmax back to the product of queries and keys."""
    found = _Scores()
    while len(found.path) < _MAX_PATH and len(_readers(value)) == 1 and (node := _producer(value)) is not None:
        found.path.insert(0, node)
        if node.op_type == "MatMul":
            computed = not any(_constant(each) for each in node.inputs)
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
    if _only_forwards(node):
        return node.inputs[0]
    scaled = _scaled(node)
    if scaled is not None:
        found.scale *= scaled[1]
        found.scales.insert(0, node)
        return scaled[0]
    # A scale that is applied later scales a mask too.
    masked = _masked(node, in_view=found.view is not None) if not found.scales else None
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


def _scaled(node: ir.Node) -> tuple[ir.Value, float] | None:
    """Returns the operand and the factor of a Mul or Div by a number."""
    if node.op_type not in ("Mul", "Div"):
        return None
    first, second = node.inputs
    for operand, other in ((first, second), (second, first)):
        factor = number_of(other)
        if operand is None or factor is None or _rank(operand) < 3:
            continue
        if node.op_type == "Mul":
            return operand, factor
        return (operand, 1 / factor) if operand is first and factor else None
    return None


def _masked(node: ir.Node, *, in_view: bool) -> tuple[ir.Value, Mask] | None:
    """Returns the scores and the mask that ``node`` applies to them."""
    if node.op_type == "Add":
        first, second = node.inputs
        for scores, other in ((first, second), (second, first)):
            if scores is None or other is None or not _leads_to_product(scores):
                continue
            if not _broadcasts_to(other, scores):
                return None
            return scores, Mask("added", other, node, view=scores if in_view else None)
    if node.op_type == "Where":
        condition, then, otherwise = node.inputs
        for scores, other, kind in ((then, otherwise, "visible"), (otherwise, then, "hidden")):
            fill = number_of(other)
            if scores is None or condition is None or fill is None or fill > HIDING or not _leads_to_product(scores):
                continue
            if not _broadcasts_to(condition, scores):
                return None
            return scores, Mask(kind, condition, node, fill, scores if in_view else None)  # type: ignore[arg-type]
    return None


def _broadcasts_to(mask: ir.Value, scores: ir.Value) -> bool:
    """Whether the mask does not enlarge the scores, as far as sizes are known."""
    of_mask, of_scores = sizes_of(mask), sizes_of(scores)
    if of_mask is None or of_scores is None or len(of_mask) > len(of_scores):
        return False
    pairs = zip(reversed(of_mask), reversed(of_scores), strict=False)
    return all(own == 1 or not (isinstance(own, int) and isinstance(size, int)) or own == size for own, size in pairs)


def _leads_to_product(value: ir.Value) -> bool:
    """Whether a product of two activations is behind ``value``, through masks, scales and views."""
    ahead: list[ir.Value | None] = [value]
    for _ in range(_MAX_PATH):
        node = _producer(ahead.pop()) if ahead else None
        if node is None or len(_readers(node.outputs[0])) != 1:
            continue
        if node.op_type == "MatMul":
            if not any(_constant(each) for each in node.inputs):
                return True
        elif node.op_type in ("Add", "Where"):
            ahead += node.inputs
        elif (scaled := _scaled(node)) is not None:
            ahead.append(scaled[0])
        elif node.op_type == "Reshape" or _only_forwards(node):
            ahead.append(node.inputs[0])
    return False


def _factor(value: ir.Value, *, scaled: bool = True, turns: bool = False) -> _Factor:
    """Goes back from a factor of a product to what is scaled, quantized and, with ``turns``, turned."""
    found = _Factor(value)
    while (node := _producer(found.value)) is not None:
        before = None
        if node.op_type == _DEQUANTIZE and (quantize := _producer(node.inputs[0])) is not None:
            if quantize.op_type == _QUANTIZE and list(quantize.inputs[1:]) == list(node.inputs[1:]):
                before, found.dequantized = quantize.inputs[0], True
        elif turns and not found.turned and (turned := _turned(node)) is not None:
            before, found.turned = turned, True
        elif scaled and (of_number := _scaled(node)) is not None:
            before = of_number[0]
            found.scale *= of_number[1]
        if before is None:
            break
        found.value = before
    return found


def _order(transpose: ir.Node) -> tuple[int, ...]:
    return tuple(transpose.attributes.get_ints("perm", ()))


def _turned(node: ir.Node) -> ir.Value | None:
    """Returns what ``node`` transposes in the last two dimensions, also if it does so in three dimensions."""
    rank = _rank(node.outputs[0])
    swap = (*range(rank - 2), rank - 1, rank - 2)
    if node.op_type == "Transpose" and rank >= 3:
        return node.inputs[0] if _order(node) == swap else None
    middle = _producer(node.inputs[0]) if node.op_type == "Reshape" else None
    first = _producer(middle.inputs[0]) if middle is not None and middle.op_type == "Transpose" else None
    if middle is None or first is None or first.op_type != "Reshape" or _order(middle) != (0, 2, 1):
        return None
    source = first.inputs[0]
    before = sizes_of(source) if source is not None else None
    flat, after = target_of(first), target_of(node)
    if before is None or flat is None or after is None or None in (*flat[1:], *before, *after):
        return None
    same = len(before) == len(after) and tuple(flat[1:]) == before[-2:]
    return source if same and after == (*before[:-2], before[-1], before[-2]) else None


def _heads_of(value: ir.Value, order: tuple[int, ...]) -> Heads | None:
    """Finds the Transpose that split ``value`` into heads, with the order of axes ``order``."""
    node = _producer(value)
    if node is None or _rank(value) != 4:
        return None
    if node.op_type == "Transpose":
        source = node.inputs[0]
        return Heads(source, None, node) if source is not None and _order(node) == order else None
    selected = _selected(node)
    packed = _producer(selected[0]) if selected is not None else None
    if selected is None or packed is None or packed.op_type != "Transpose" or order != _SPLIT:
        return None
    source = packed.inputs[0]
    return Heads(source, selected[1], packed) if source is not None and _order(packed) == _SPLIT_PACKED else None


def _selected(node: ir.Node) -> tuple[ir.Value, int] | None:
    """Returns what ``node`` takes a part of, at an index of the first dimension, which is dropped."""
    source = node.inputs[0]
    if node.op_type == "Gather" and source is not None and node.attributes.get_int("axis", 0) == 0:
        index = number_of(node.inputs[1])
        return (source, int(index)) if index is not None and _rank(node.inputs[1]) == 0 and index >= 0 else None
    part = _producer(source) if node.op_type == "Squeeze" and len(node.inputs) == 2 else None
    if part is None or number_of(node.inputs[1]) != 0 or part.inputs[0] is None:
        return None
    if part.op_type == "Slice":
        starts, ends, *others = (elements_of(each) for each in part.inputs[1:] if each is not None)
        one = starts is not None and isinstance(starts[0], int) and starts[0] >= 0 and ends == (starts[0] + 1,)
        return (part.inputs[0], int(starts[0])) if one and starts and others[:1] == [(0,)] else None  # type: ignore[arg-type]
    if part.op_type == "Split" and part.attributes.get_int("axis", 0) == 0 and source is not None:
        return part.inputs[0], list(part.outputs).index(source)
    return None


def _merge_after(output: ir.Value) -> ir.Node | None:
    node = _only_reader(output)
    return node if node is not None and node.op_type == "Transpose" and _order(node) == _SPLIT else None


def is_causal(mask: Mask) -> bool:
    """Returns whether the mask hides the keys after the query, and no others."""
    tensor = mask.value.const_value if _constant(mask.value) else None
    if tensor is None or len(tensor.shape) < 2 or tensor.size > _MAX_MASK_ELEMENTS:
        return _is_computed_triangle(mask)
    array = tensor.numpy()
    hidden = array <= HIDING if mask.kind == "added" else array == (mask.kind == "hidden")
    later = np.triu(np.ones(array.shape[-2:], bool), 1)
    zeros = mask.kind != "added" or not array[~hidden].any()
    return array.shape[-2] == array.shape[-1] and zeros and bool((hidden == later).all())


def _is_computed_triangle(mask: Mask) -> bool:
    """Whether the mask is ``Where(Equal(Trilu(1), 0), -inf, 0)``, as torch's exporter computes it for any length."""
    choice = _producer(mask.value)
    if mask.kind != "added" or choice is None or choice.op_type != "Where":
        return False
    then, otherwise = number_of(choice.inputs[1]), number_of(choice.inputs[2])
    equal = _producer(choice.inputs[0])
    if equal is None or equal.op_type != "Equal" or number_of(equal.inputs[1]) != 0 or otherwise != 0:
        return False
    triangle = _producer(equal.inputs[0])
    lower = triangle is not None and triangle.op_type == "Trilu" and triangle.attributes.get_int("upper", 1) == 0
    diagonal = triangle.inputs[1] if triangle is not None and len(triangle.inputs) > 1 else None
    ones = _producer(triangle.inputs[0]) if triangle is not None else None
    filled = ones is not None and ones.op_type == "Expand" and number_of(ones.inputs[0]) == 1
    hides = then is not None and then <= HIDING
    return lower and filled and hides and (diagonal is None or number_of(diagonal) == 0)
