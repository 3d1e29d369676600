"""Finds how queries, keys and values were split into heads, and how the heads are merged."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgekit.graph.attention.walk import only_reader_of, producer_of, rank_of
from edgekit.graph.shape_values import elements_of, number_of, sizes_of, target_of

__all__ = ["SPLIT", "SPLIT_TURNED", "Heads", "heads_of", "merge_after", "turned_by"]

SPLIT, SPLIT_TURNED, _SPLIT_PACKED = (0, 2, 1, 3), (0, 2, 3, 1), (2, 0, 3, 1, 4)


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


def heads_of(value: ir.Value, order: tuple[int, ...]) -> Heads | None:
    """Finds the Transpose that split ``value`` into heads, with the order of axes ``order``."""
    node = producer_of(value)
    if node is None or rank_of(value) != 4:
        return None
    if node.op_type == "Transpose":
        source = node.inputs[0]
        return Heads(source, None, node) if source is not None and order_of(node) == order else None
    selected = _selected(node)
    packed = producer_of(selected[0]) if selected is not None else None
    if selected is None or packed is None or packed.op_type != "Transpose" or order != SPLIT:
        return None
    source = packed.inputs[0]
    return Heads(source, selected[1], packed) if source is not None and order_of(packed) == _SPLIT_PACKED else None


def _selected(node: ir.Node) -> tuple[ir.Value, int] | None:
    """Returns what ``node`` takes a part of, at an index of the first dimension, which is dropped."""
    source = node.inputs[0]
    if node.op_type == "Gather" and source is not None and node.attributes.get_int("axis", 0) == 0:
        index = number_of(node.inputs[1])
        return (source, int(index)) if index is not None and rank_of(node.inputs[1]) == 0 and index >= 0 else None
    part = producer_of(source) if node.op_type == "Squeeze" and len(node.inputs) == 2 else None
    if part is None or number_of(node.inputs[1]) != 0 or part.inputs[0] is None:
        return None
    if part.op_type == "Slice":
        starts, ends, *others = (elements_of(each) for each in part.inputs[1:] if each is not None)
        one = starts is not None and isinstance(starts[0], int) and starts[0] >= 0 and ends == (starts[0] + 1,)
        return (part.inputs[0], int(starts[0])) if one and starts and others[:1] == [(0,)] else None  # type: ignore[arg-type]
    if part.op_type == "Split" and part.attributes.get_int("axis", 0) == 0 and source is not None:
        return part.inputs[0], list(part.outputs).index(source)
    return None


def turned_by(node: ir.Node) -> ir.Value | None:
    """Returns what ``node`` transposes in the last two dimensions, also if it does so in three dimensions."""
    rank = rank_of(node.outputs[0])
    swap = (*range(rank - 2), rank - 1, rank - 2)
    if node.op_type == "Transpose" and rank >= 3:
        return node.inputs[0] if order_of(node) == swap else None
    middle = producer_of(node.inputs[0]) if node.op_type == "Reshape" else None
    first = producer_of(middle.inputs[0]) if middle is not None and middle.op_type == "Transpose" else None
    if middle is None or first is None or first.op_type != "Reshape" or order_of(middle) != (0, 2, 1):
        return None
    source = first.inputs[0]
    before = sizes_of(source) if source is not None else None
    flat, after = target_of(first), target_of(node)
    if before is None or flat is None or after is None or None in (*flat[1:], *before, *after):
        return None
    same = len(before) == len(after) and tuple(flat[1:]) == before[-2:]
    return source if same and after == (*before[:-2], before[-1], before[-2]) else None


def merge_after(output: ir.Value) -> ir.Node | None:
    node = only_reader_of(output)
    return node if node is not None and node.op_type == "Transpose" and order_of(node) == SPLIT else None


def order_of(transpose: ir.Node) -> tuple[int, ...]:
    return tuple(transpose.attributes.get_ints("perm", ()))
