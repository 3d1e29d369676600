"""Replaces attention in one operator of ONNX Runtime by ONNX's products, masks and Softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgekit.graph.passes.decomposing import Decomposition, Parts, input_of, is_used

__all__ = ["ATTENTION"]

_OPTIONS = ("do_rotary", "past_present_share_buffer")
_HIDING = -10000.0
"""Default of ``mask_filter_value``: what is added to the score of a hidden key."""
_LATER = float(np.finfo(np.float32).min)
"""What ONNX Runtime adds to the scores of the keys behind a query."""


def _attention(node: ir.Node, parts: Parts) -> Sequence[ir.Value | None] | None:
    """``Attention``: queries, keys and values are products of one tensor.

    Inputs are data ``(B, S, C)``, weights ``(C, Q + K + V)``, a bias, a mask, keys and values of before, and what is
    added to the scores.
    """
    data, weights, bias, mask, past, added = (input_of(node, index) for index in range(6))
    if past is not None or input_of(node, 6) is not None or is_used(node, 1) or _has_options(node):
        return None
    columns = weights.shape[1] if weights is not None and weights.shape is not None else None
    if not isinstance(columns, int):
        return None
    sizes = list(node.attributes.get_ints("qkv_hidden_sizes", ())) or [columns // 3] * 3
    # One product each: on integers, each result has a range of its own, and nothing is copied to split them.
    factors = [parts.add("MatMul", data, each) for each in _split(weights, sizes, parts, axis=1)]
    factors = _biased(factors, bias, sizes, parts)
    return _attended(node, parts, factors, (mask, added), data, sizes[0])


def _multi_head(node: ir.Node, parts: Parts) -> Sequence[ir.Value | None] | None:
    """``MultiHeadAttention``: queries, keys and values are given, each ``(B, S, C)``, and one bias for the three."""
    given, bias, masks = node.inputs[:3], input_of(node, 3), (input_of(node, 4), input_of(node, 5))
    if any(input_of(node, index) is not None for index in range(6, len(node.inputs))):
        return None
    if is_used(node, 1) or is_used(node, 2) or len(given) < 3:
        return None
    sizes = [each.shape[2] if each is not None and _rank(each) == 3 else None for each in given]  # type: ignore[index]
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) < 3:
        return None
    factors = _biased([each for each in given if each is not None], bias, known, parts)
    return _attended(node, parts, factors, masks, factors[0], known[0])


def _has_options(node: ir.Node) -> bool:
    return any(node.attributes.get_int(name, 0) for name in _OPTIONS)


def _attended(
    node: ir.Node,
    parts: Parts,
    factors: Sequence[ir.Value],
    masks: tuple[ir.Value | None, ir.Value | None],
    data: ir.Value | None,
    size: int,
) -> Sequence[ir.Value | None] | None:
    """Adds the attention.

    Args:
        node: the operator.
        parts: receives the nodes.
        factors: queries, keys and values, ``(B, S, C)`` each.
        masks: which keys are visible, and what is added to the scores.
        data: a tensor whose first size is the number of sequences.
        size: number of channels of the queries.
    """
    query, key, value = factors
    heads, (mask, added) = node.attributes.get_int("num_heads", 1), masks
    turned = _by_head(key, heads, (0, 2, 3, 1), parts)
    scores = parts.add("MatMul", _by_head(query, heads, (0, 2, 1, 3), parts), turned)
    scale = node.attributes.get_float("scale", 0.0) or 1 / math.sqrt(size / heads)
    scores = parts.add("Mul", scores, parts.number(scale))
    if mask is not None:
        visible = _visible(mask, key, data, parts)
        if visible is None:
            return None
        hiding = parts.number(node.attributes.get_float("mask_filter_value", _HIDING))
        scores = parts.add("Add", scores, parts.add("Where", visible, parts.number(0), hiding))
    if added is not None:
        scores = parts.add("Add", scores, added)
    if node.attributes.get_int("unidirectional", 0):
        scores = parts.add("Add", scores, _later_keys(query, key, parts))
    found = parts.add("MatMul", parts.add("Softmax", scores, axis=-1), _by_head(value, heads, (0, 2, 1, 3), parts))
    joined = parts.add("Transpose", found, perm=(0, 2, 1, 3))
    return [parts.add("Reshape", joined, parts.add("Constant", value_ints=(0, 0, -1)))]


def _biased(factors: list[ir.Value], bias: ir.Value | None, sizes: Sequence[int], parts: Parts) -> list[ir.Value]:
    """Adds the parts of a bias to queries, keys and values."""
    if bias is None:
        return factors
    biases = _split(bias, sizes, parts, axis=0)
    return [parts.add("Add", each, own) for each, own in zip(factors, biases, strict=True)]


def _split(value: ir.Value | None, sizes: Sequence[int], parts: Parts, *, axis: int) -> list[ir.Value]:
    first = parts.add("Split", value, parts.add("Constant", value_ints=sizes), axis=axis)
    node = parts.nodes[-1]
    node.resize_outputs(len(sizes))
    for index, output in enumerate(node.outputs[1:], 1):
        output.name = f"{first.name}.{index}"
    return list(node.outputs)


def _by_head(value: ir.Value, heads: int, order: Sequence[int], parts: Parts) -> ir.Value:
    """Returns ``(B, S, heads * D)`` as ``(B, S, heads, D)``, with its axes in another order."""
    return parts.add("Transpose", parts.add("Reshape", value, _ints(parts, 0, 0, heads, -1)), perm=order)


def _visible(mask: ir.Value, key: ir.Value, data: ir.Value | None, parts: Parts) -> ir.Value | None:
    """Returns which keys are visible, broadcast to ``(B, heads, S, T)``; None if the form of the mask is another one.

    A mask has 0 for hidden keys, ``(B, T)`` or ``(B, S, T)``, or it is the number of visible keys ``(B)``.
    """
    match _rank(mask):
        case 1 if _same_first_size(mask, data):
            length = parts.add("Squeeze", parts.add("Shape", key, start=1, end=2))
            zero, one = (parts.array(np.array(number, np.int64)) for number in (0, 1))
            places = parts.add("Cast", parts.add("Range", zero, length, one), to=ir.DataType.INT32.value)
            return parts.add("Less", places, parts.add("Unsqueeze", mask, _ints(parts, 1, 2, 3)))
        case 2 | 3 as rank:
            shown = parts.add("Greater", mask, parts.array(np.array(0, np.int32)))
            return parts.add("Unsqueeze", shown, _ints(parts, *range(1, 5 - rank)))
    return None


def _later_keys(query: ir.Value, key: ir.Value, parts: Parts) -> ir.Value:
    """Returns what hides the keys behind a query, ``(S, T)``."""
    sizes = [parts.add("Shape", each, start=1, end=2) for each in (query, key)]
    ones = parts.add("Expand", parts.number(1), parts.add("Concat", *sizes, axis=0))
    later = parts.add("Equal", parts.add("Trilu", ones, upper=0), parts.number(0))
    return parts.add("Where", later, parts.number(_LATER), parts.number(0))


def _ints(parts: Parts, *numbers: int) -> ir.Value:
    return parts.add("Constant", value_ints=numbers)


def _rank(value: ir.Value) -> int | None:
    return len(value.shape) if value.shape is not None else None


def _same_first_size(mask: ir.Value, data: ir.Value | None) -> bool:
    """Whether a mask has one number for each sequence: with two, they are where the visible keys end and begin."""
    if mask.shape is None or data is None or data.shape is None:
        return False
    return bool(mask.shape[0] == data.shape[0])


ATTENTION: dict[str, Decomposition] = {"Attention": _attention, "MultiHeadAttention": _multi_head}
