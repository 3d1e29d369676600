"""Replaces attention in one operator of ONNX Runtime by ONNX's products, masks and Softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgekit.graph.passes.decomposing import Decomposition, Parts, input_of, ints, is_used, split

__all__ = ["ATTENTION"]

_OPTIONS = ("do_rotary", "past_present_share_buffer")
_HIDING = -10000.0
"""Default of ``mask_filter_value``: what is added to the score of a hidden key."""
_LATER = float(np.finfo(np.float32).min)
"""What ONNX Runtime adds to the scores of the keys behind a query."""


@dataclass(frozen=True)
class _Factors:
    """What an attention multiplies.

    Attributes:
        query: ``(B, S, C)``.
        key: ``(B, T, C)``, or ``(B, heads, T, D)``.
        value: likewise.
        size: number of channels of the queries, C.
        past: keys and values of before, ``(B, heads, P, D)``; None if there are none.
        stored: whether keys and values are outputs, with those of before.
    """

    query: ir.Value
    key: ir.Value
    value: ir.Value
    size: int
    past: tuple[ir.Value, ir.Value] | None = None
    stored: bool = False


def _attention(node: ir.Node, parts: Parts) -> Sequence[ir.Value | None] | None:
    """``Attention``: queries, keys and values are products of one tensor.

    Inputs are data ``(B, S, C)``, weights ``(C, Q + K + V)``, a bias, a mask, keys and values of before
    ``(2, B, heads, P, D)``, and what is added to the scores. The second output is keys and values.
    """
    data, weights, bias, mask, past, added = (input_of(node, index) for index in range(6))
    if input_of(node, 6) is not None or _has_options(node):
        return None
    columns = weights.shape[1] if weights is not None and weights.shape is not None else None
    if not isinstance(columns, int):
        return None
    sizes = list(node.attributes.get_ints("qkv_hidden_sizes", ())) or [columns // 3] * 3
    # One product each: on integers, each result has a range of its own, and nothing is copied to split them.
    factors = [parts.add("MatMul", data, each) for each in split(weights, sizes, parts, axis=1)]
    before = None
    if past is not None:
        first, second = (parts.add("Gather", past, parts.add("Constant", value_int=index)) for index in (0, 1))
        before = (first, second)
    query, key, value = _biased(factors, bias, sizes, parts)
    given = _Factors(query, key, value, sizes[0], before, is_used(node, 1))
    outputs = _attended(node, parts, given, (mask, added), data)
    if outputs is None or not given.stored:
        return outputs
    both = [parts.add("Unsqueeze", each, ints(parts, 0)) for each in outputs[1:]]
    return [outputs[0], parts.add("Concat", *both, axis=0)]


def _multi_head(node: ir.Node, parts: Parts) -> Sequence[ir.Value | None] | None:
    """``MultiHeadAttention``: queries, keys and values are given, and one bias for the three.

    They are ``(B, S, C)`` each; keys and values may be ``(B, heads, T, D)``. Or one tensor ``(B, S, heads, 3, D)`` has
    all, or one ``(B, T, heads, 2, D)`` keys and values. The other outputs are keys and values, with those of before.
    """
    bias, masks = input_of(node, 3), (input_of(node, 4), input_of(node, 5))
    past, later = (input_of(node, 6), input_of(node, 7)), node.inputs[8:]
    if (past[0] is None) != (past[1] is None) or any(each is not None for each in later) or is_used(node, 3):
        return None
    factors = _unpacked([each for each in node.inputs[:3] if each is not None], parts)
    sizes = [_channels(each) for each in factors]
    if len(factors) < 3 or not all(sizes):
        return None
    if _rank(factors[1]) == 4:  # from an earlier step, which has added their bias
        factors[:1] = _biased(factors[:1], bias, (sizes[0], sizes[1] + sizes[2]), parts)
    else:
        factors = _biased(factors, bias, sizes, parts)
    query, key, value = factors
    before = None if past[0] is None or past[1] is None else (past[0], past[1])
    given = _Factors(query, key, value, sizes[0], before, is_used(node, 1) or is_used(node, 2))
    return _attended(node, parts, given, masks, node.inputs[0])


def _unpacked(given: Sequence[ir.Value], parts: Parts) -> list[ir.Value]:
    """Returns queries, keys and values of tensors that may have several of them in the fourth of five dimensions."""
    factors: list[ir.Value] = []
    for each in given:
        if _rank(each) != 5 or each.shape is None:
            factors.append(each)
            continue
        heads, count, channels = (size if isinstance(size, int) else 0 for size in each.shape[2:])
        for part in split(each, [1] * count, parts, axis=3):
            factors.append(parts.add("Reshape", part, ints(parts, 0, 0, heads * channels)))
            factors[-1].shape = ir.Shape([None, None, heads * channels])
    return factors


def _channels(value: ir.Value) -> int:
    """Returns the number of channels of all heads of ``(B, S, C)`` or ``(B, heads, S, D)``; 0 if it is not known."""
    sizes = [] if value.shape is None else [value.shape[axis] for axis in ((2,) if len(value.shape) == 3 else (1, 3))]
    return math.prod(size if isinstance(size, int) else 0 for size in sizes) if sizes else 0


def _has_options(node: ir.Node) -> bool:
    return any(node.attributes.get_int(name, 0) for name in _OPTIONS)


def _attended(
    node: ir.Node,
    parts: Parts,
    factors: _Factors,
    masks: tuple[ir.Value | None, ir.Value | None],
    data: ir.Value | None,
) -> Sequence[ir.Value | None] | None:
    """Adds the attention.

    Args:
        node: the operator.
        parts: receives the nodes.
        factors: queries, keys and values.
        masks: which keys are visible, and what is added to the scores.
        data: a tensor whose first size is the number of sequences.
    """
    heads, (mask, added) = node.attributes.get_int("num_heads", 1), masks
    if factors.past is None and not factors.stored and _rank(factors.key) != 4:
        turned, values = (
            _by_head(each, heads, order, parts)
            for each, order in ((factors.key, (0, 2, 3, 1)), (factors.value, (0, 2, 1, 3)))
        )
        keys = None
    else:
        keys, values = _with_past(factors, heads, parts)
        turned = parts.add("Transpose", keys, perm=(0, 1, 3, 2))
    scores = parts.add("MatMul", _by_head(factors.query, heads, (0, 2, 1, 3), parts), turned)
    scale = node.attributes.get_float("scale", 0.0) or 1 / math.sqrt(factors.size / heads)
    scores = parts.add("Mul", scores, parts.number(scale))
    if mask is not None:
        visible = _visible(mask, factors, data, parts)
        if visible is None:
            return None
        hiding = parts.number(node.attributes.get_float("mask_filter_value", _HIDING))
        scores = parts.add("Add", scores, parts.add("Where", visible, parts.number(0), hiding))
    if added is not None:
        scores = parts.add("Add", scores, added)
    if node.attributes.get_int("unidirectional", 0):
        scores = parts.add("Add", scores, _later_keys(factors, turned, parts))
    found = parts.add("MatMul", parts.add("Softmax", scores, axis=-1), values)
    joined = parts.add("Transpose", found, perm=(0, 2, 1, 3))
    outputs = [parts.add("Reshape", joined, ints(parts, 0, 0, -1))]
    return [*outputs, keys, values] if factors.stored else outputs


def _with_past(factors: _Factors, heads: int, parts: Parts) -> list[ir.Value]:
    """Returns keys and values, ``(B, heads, P + T, D)``."""
    both = [
        each if _rank(each) == 4 else _by_head(each, heads, (0, 2, 1, 3), parts)
        for each in (factors.key, factors.value)
    ]
    if factors.past is None:
        return both
    return [parts.add("Concat", old, new, axis=2) for old, new in zip(factors.past, both, strict=True)]


def _biased(factors: list[ir.Value], bias: ir.Value | None, sizes: Sequence[int], parts: Parts) -> list[ir.Value]:
    """Adds the first parts of a bias to queries, keys and values."""
    if bias is None:
        return factors
    biases = split(bias, sizes, parts, axis=0)
    return [parts.add("Add", each, own) for each, own in zip(factors, biases, strict=False)]


def _by_head(value: ir.Value, heads: int, order: Sequence[int], parts: Parts) -> ir.Value:
    """Returns ``(B, S, heads * D)`` as ``(B, S, heads, D)``, with its axes in another order."""
    return parts.add("Transpose", parts.add("Reshape", value, ints(parts, 0, 0, heads, -1)), perm=order)


def _visible(mask: ir.Value, factors: _Factors, data: ir.Value | None, parts: Parts) -> ir.Value | None:
    """Returns which keys are visible, broadcast to ``(B, heads, S, T)``; None if the form of the mask is another one.

    A mask has 0 for hidden keys, ``(B, T)`` or ``(B, S, T)``, or it is the number of visible keys ``(B)``.
    """
    match _rank(mask):
        case 1 if _same_first_size(mask, data) and factors.past is None and _rank(factors.key) != 4:
            length = parts.add("Squeeze", parts.add("Shape", factors.key, start=1, end=2))
            zero, one = (parts.array(np.array(number, np.int64)) for number in (0, 1))
            places = parts.add("Cast", parts.add("Range", zero, length, one), to=ir.DataType.INT32.value)
            return parts.add("Less", places, parts.add("Unsqueeze", mask, ints(parts, 1, 2, 3)))
        case 2 | 3 as rank:
            shown = parts.add("Greater", mask, parts.array(np.array(0, np.int32)))
            return parts.add("Unsqueeze", shown, ints(parts, *range(1, 5 - rank)))
    return None


def _later_keys(factors: _Factors, turned: ir.Value, parts: Parts) -> ir.Value:
    """Returns what hides the keys behind a query, ``(S, T)``; ``turned`` are the keys, ``(B, heads, D, T)``."""
    sizes = [parts.add("Shape", factors.query, start=1, end=2), parts.add("Shape", turned, start=3, end=4)]
    ones = parts.add("Expand", parts.number(1), parts.add("Concat", *sizes, axis=0))
    before = [] if factors.past is None else [parts.add("Squeeze", parts.add("Shape", factors.past[0], start=2, end=3))]
    later = parts.add("Equal", parts.add("Trilu", ones, *before, upper=0), parts.number(0))
    return parts.add("Where", later, parts.number(_LATER), parts.number(0))


def _rank(value: ir.Value) -> int | None:
    return len(value.shape) if value.shape is not None else None


def _same_first_size(mask: ir.Value, data: ir.Value | None) -> bool:
    """Whether a mask has one number for each sequence: with two, they are where the visible keys end and begin."""
    if mask.shape is None or data is None or data.shape is None:
        return False
    return bool(mask.shape[0] == data.shape[0])


ATTENTION: dict[str, Decomposition] = {"Attention": _attention, "MultiHeadAttention": _multi_head}
