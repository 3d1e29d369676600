"""Replaces attention with a cache of keys and values, in one operator of ONNX Runtime, by ONNX's operators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgekit.graph.passes.decompose_rotary import rotated
from edgekit.graph.passes.decomposing import Decomposition, Parts, input_of, ints, is_used, split

__all__ = ["GROUPED_ATTENTION"]

_QUERY, _KEY, _VALUE, _PAST_KEY, _PAST_VALUE, _LENGTHS, _TOTAL, _COSINES, _SINES, _PLACES = range(10)
_OPTIONS = ("smooth_softmax", "qk_output", "k_quant_type", "v_quant_type", "kv_cache_bit_width")
_DEFAULTS = (0, "NONE")
_HIDDEN = float(np.finfo(np.float32).min)
_UNUSED = 1 << 24
"""The place of a key that is not used, behind all others; OpenVINO selects integers as float32, which has this one."""


@dataclass(frozen=True)
class _Form:
    """The number of heads of queries, of keys and values, of channels of each, and of those that are rotated."""

    heads: int
    shared: int
    channels: int
    rotated: int


@dataclass(frozen=True)
class _Counts:
    """How many keys there are.

    Attributes:
        new: number of new keys, S; one element.
        past: number of keys of before, P, used or not; one element.
        present: number of keys that the next step gets; one element.
        before: number of used keys of before, ``(B, 1)``.
        places: place of each new key among all that are used, ``(B, S)``.
        last: place of the last key that is visible, ``(B, 1)``.
    """

    new: ir.Value
    past: ir.Value
    present: ir.Value
    before: ir.Value
    places: ir.Value
    last: ir.Value


def _grouped(node: ir.Node, parts: Parts) -> Sequence[ir.Value | None] | None:
    """``GroupQueryAttention``: several heads of queries share one head of keys and values.

    Inputs are queries, keys and values ``(B, S, heads * D)`` each, or one tensor of them; keys and values of before,
    ``(B, heads, P, D)``; the number of visible keys less one ``(B)``; and the largest number of keys, one element. Of
    the keys of before, the first ones are used, as many as are visible without the S new ones. ONNX Runtime puts the
    new keys behind these, and zeros behind the new ones. Here the new keys are behind all of before, and unused ones
    are hidden, since a sum over keys does not depend on their order; the next step gets the keys in ONNX Runtime's.
    """
    form = _form(node)
    if form is None or not _is_plain(node):
        return None
    factors = _factors(node, form, parts)
    counts = _counts(node, factors[0], parts)
    if form.rotated:
        factors[:2] = _turned(node, form, factors[:2], counts, parts)
    query, key, value = (parts.add("Transpose", each, perm=(0, 2, 1, 3)) for each in factors)
    pasts = node.inputs[_PAST_KEY : _PAST_VALUE + 1]
    keys, values = (
        new if past is None else parts.add("Concat", past, new, axis=2)
        for past, new in zip(pasts, (key, value), strict=True)
    )
    scores = parts.add("MatMul", query, parts.add("Transpose", _repeated(keys, form, parts), perm=(0, 1, 3, 2)))
    scale = node.attributes.get_float("scale", 0.0) or 1 / math.sqrt(form.channels)
    scores = parts.add("Mul", scores, parts.number(scale))
    if limit := node.attributes.get_float("softcap", 0.0):
        bent = parts.add("Tanh", parts.add("Mul", scores, parts.number(1 / limit)))
        scores = parts.add("Mul", bent, parts.number(limit))
    scores = parts.add("Add", scores, _mask(node, counts, parts))
    found = parts.add("MatMul", parts.add("Softmax", scores, axis=-1), _repeated(values, form, parts))
    if (window := _window(node)) > 0:  # what stands so far behind the end that no key is in its window is 0
        first = parts.add("Sub", counts.places, ints(parts, window))
        seen = parts.add("Unsqueeze", parts.add("Less", first, counts.last), ints(parts, 1, 3))
        found = parts.add("Where", seen, found, parts.number(0))
    joined = parts.add("Transpose", found, perm=(0, 2, 1, 3))
    stored = [
        each if past is None else _stored(each, counts, form, parts)
        for each, past in zip((keys, values), pasts, strict=True)
    ]
    return [parts.add("Reshape", joined, ints(parts, 0, 0, form.heads * form.channels)), *stored]


def _is_plain(node: ir.Node) -> bool:
    """Whether it has none of the inputs and options that are not replaced: biases, sinks, caches of integers."""
    with_key, with_value = (input_of(node, index) is not None for index in (_PAST_KEY, _PAST_VALUE))
    more = any(value is not None for value in node.inputs[_PLACES + 1 :])
    used = any(is_used(node, index) for index in range(3, len(node.outputs)))
    options = any(node.attributes[name].value not in _DEFAULTS for name in _OPTIONS if name in node.attributes)
    return with_key == with_value and not more and not used and not options


def _form(node: ir.Node) -> _Form | None:
    """Returns the sizes; None if they are not known."""
    heads, shared = (node.attributes.get_int(name, 0) for name in ("num_heads", "kv_num_heads"))
    columns, channels, half = (_last_size(input_of(node, index)) for index in (_QUERY, _PAST_KEY, _COSINES))
    turns = node.attributes.get_int("do_rotary", 0)
    if not heads or not shared or not (columns or channels) or (turns and not half):
        return None
    parts = heads if input_of(node, _KEY) is not None else heads + 2 * shared
    return _Form(heads, shared, channels or columns // parts, 2 * half if turns else 0)


def _last_size(value: ir.Value | None) -> int:
    size = value.shape[-1] if value is not None and value.shape is not None else 0
    return size if isinstance(size, int) else 0


def _factors(node: ir.Node, form: _Form, parts: Parts) -> list[ir.Value]:
    """Returns queries, keys and values, ``(B, S, heads, D)`` each."""
    counts = (form.heads, form.shared, form.shared)
    given: Sequence[ir.Value | None] = node.inputs[: _VALUE + 1]
    if given[_KEY] is None:
        given = split(given[_QUERY], [count * form.channels for count in counts], parts, axis=-1)
    return [
        parts.add("Reshape", each, ints(parts, 0, 0, count, form.channels))
        for each, count in zip(given, counts, strict=True)
    ]


def _counts(node: ir.Node, query: ir.Value, parts: Parts) -> _Counts:
    lengths, total = (
        parts.add("Reshape", parts.add("Cast", node.inputs[index], to=ir.DataType.INT64.value), ints(parts, -1))
        for index in (_LENGTHS, _TOTAL)
    )
    before = node.inputs[_PAST_KEY]
    new = parts.add("Shape", query, start=1, end=2)
    past = ints(parts, 0) if before is None else parts.add("Shape", before, start=2, end=3)
    visible = parts.add("Sub", parts.add("Add", lengths, ints(parts, 1)), new)
    # A sequence of the first prompt may be shorter than others, and begins with the first key all the same.
    used = parts.add("Where", parts.add("Equal", total, new), ints(parts, 0), visible)
    used, last = (parts.add("Unsqueeze", each, ints(parts, 1)) for each in (used, lengths))
    places = parts.add("Add", used, _up_to(new, parts))
    return _Counts(new, past, parts.add("Max", total, past), used, places, last)


def _up_to(count: ir.Value, parts: Parts) -> ir.Value:
    """Returns the numbers from 0 to less than ``count``, which has one element."""
    zero, one = (parts.add("Constant", value_int=number) for number in (0, 1))
    return parts.add("Range", zero, parts.add("Squeeze", count), one)


def _turned(
    node: ir.Node, form: _Form, factors: Sequence[ir.Value], counts: _Counts, parts: Parts
) -> Sequence[ir.Value]:
    """Rotates queries and keys by the angles of their places."""
    given, axis = input_of(node, _PLACES), ints(parts, 2)
    places = counts.places if given is None else given
    cosines, sines = (
        parts.add("Unsqueeze", parts.add("Gather", node.inputs[index], places), axis) for index in (_COSINES, _SINES)
    )
    neighbours = bool(node.attributes.get_int("rotary_interleaved", 0))
    return [
        rotated(each, (cosines, sines), form.rotated, form.channels, interleaved=neighbours, parts=parts)
        for each in factors
    ]


def _window(node: ir.Node) -> int:
    """Returns how many of the last keys a query sees; not positive: all."""
    return int(node.attributes.get_int("local_window_size", -1))


def _mask(node: ir.Node, counts: _Counts, parts: Parts) -> ir.Value:
    """Returns what hides keys, ``(B, 1, S, P + S)``: later ones, unused ones, and those before the window."""
    keys = counts.places
    # What stands behind the end of a shorter prompt sees all keys before the end, and none behind it.
    queries = parts.add("Unsqueeze", parts.add("Min", counts.places, counts.last), ints(parts, 1, 3))
    if input_of(node, _PAST_KEY) is not None:
        old = _up_to(counts.past, parts)
        old = parts.add("Where", parts.add("Less", old, counts.before), old, parts.array(np.array(_UNUSED, np.int64)))
        keys = parts.add("Concat", old, keys, axis=1)
    keys = parts.add("Unsqueeze", keys, ints(parts, 1, 2))
    visible = parts.add("LessOrEqual", keys, queries)
    if (window := _window(node)) > 0:
        rows = parts.add("Unsqueeze", counts.places, ints(parts, 1, 3))
        visible = parts.add("And", visible, parts.add("Greater", keys, parts.add("Sub", rows, ints(parts, window))))
    return parts.add("Where", visible, parts.number(0), parts.number(_HIDDEN))


def _repeated(value: ir.Value, form: _Form, parts: Parts) -> ir.Value:
    """Returns keys or values with one head for each head of the queries."""
    group = form.heads // form.shared
    if group == 1:
        return value
    copies = parts.add("Expand", parts.add("Unsqueeze", value, ints(parts, 2)), ints(parts, 1, 1, group, 1, 1))
    return parts.add("Reshape", copies, ints(parts, 0, form.heads, -1, form.channels))


def _stored(value: ir.Value, counts: _Counts, form: _Form, parts: Parts) -> ir.Value:
    """Returns the used keys or values of before, the new ones behind them, and zeros."""
    places, one = _up_to(counts.present, parts), ints(parts, 1)
    moved = parts.add("Add", parts.add("Sub", places, counts.before), counts.past)
    last = parts.add("Sub", parts.add("Add", counts.past, counts.new), one)
    rows = parts.add("Where", parts.add("Less", places, counts.before), places, parts.add("Min", moved, last))
    rows = parts.add("Expand", parts.add("Unsqueeze", rows, ints(parts, 1, 3)), ints(parts, 1, form.shared, 1, 1))
    used = parts.add("Less", places, parts.add("Add", counts.before, counts.new))
    shown = parts.add("Unsqueeze", used, ints(parts, 1, 3))
    return parts.add("Where", shown, parts.add("GatherND", value, rows, batch_dims=2), parts.number(0))


GROUPED_ATTENTION: dict[str, Decomposition] = {"GroupQueryAttention": _grouped}
