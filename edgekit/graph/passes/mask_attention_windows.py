"""Hides keys outside of the windows of an ``Attention`` by its mask, which all libraries read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgekit.graph.passes.decomposing import DecomposePass, Parts, input_of, ints, is_used
from edgekit.graph.passes.infer_shapes import InferShapes

__all__ = ["MaskAttentionWindows"]

_SIDES = ("left_window_size", "right_window_size")
_MASK, _PAST, _LENGTHS = 3, 4, 6
_RANK_OF_HEADS = 4


class MaskAttentionWindows(ir.passes.InPlacePass):
    """Replaces ``left_window_size`` and ``right_window_size``, which ``Attention`` has since opset 25, by a mask.

    A query at position p sees the keys from p - left to p + right; p counts the keys of before. OpenVINO 2026.4 leaves
    the windows out without a word (9.7 dB), and with ``is_causal`` counts p without the keys of before.

    Args:
        causal: replace ``is_causal`` too where there are keys of before.

    Postconditions: no Attention has a window, unless it has lengths of the keys (``nonpad_kv_seqlen``), or a mask that
        may have fewer columns than there are keys. Names and results stay.
    """

    def __init__(self, *, causal: bool = False) -> None:
        super().__init__()
        self._causal = causal

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if not any(_windows(node, self._causal) for node in model.graph.all_nodes()):
            return ir.passes.PassResult(model, modified=False)
        InferShapes()(model)
        return DecomposePass("", {"Attention": lambda node, parts: _masked(node, parts, self._causal)})(model)


def _windows(node: ir.Node, causal: bool) -> dict[str, int]:
    """Returns how far a query sees on each side where that is bounded, if a mask is to say so."""
    if node.op_type != "Attention" or node.domain:
        return {}
    sizes = {side: node.attributes.get_int(side, -1) for side in _SIDES}
    found = {side: size for side, size in sizes.items() if size >= 0}
    is_causal = node.attributes.get_int("is_causal", 0) == 1
    if is_causal and (found or (causal and input_of(node, _PAST) is not None)):
        found[_SIDES[1]] = 0
    return found


def _masked(node: ir.Node, parts: Parts, causal: bool) -> Sequence[ir.Value | None] | None:
    query, key, mask, past = (input_of(node, index) for index in (0, 1, _MASK, _PAST))
    windows = _windows(node, causal)
    if not windows or query is None or query.shape is None or key is None:
        return None
    if input_of(node, _LENGTHS) is not None or not _has_all_keys(mask, node):
        return None
    axis = _axis_of_tokens(query.shape)
    zero, one = (parts.array(np.asarray(number, np.int64)) for number in (0, 1))
    queries, keys = _size(query, axis, parts), _size(key, axis, parts)
    places = parts.add("Range", zero, queries, one)
    if past is not None:
        before = _size(past, 2, parts)
        keys = parts.add("Add", keys, before)
        places = parts.add("Add", places, before)
    rows, columns = parts.add("Unsqueeze", places, ints(parts, 1)), parts.add("Range", zero, keys, one)
    visible = None
    for side, sign, comparison in zip(_SIDES, (-1, 1), ("GreaterOrEqual", "LessOrEqual"), strict=True):
        if side in windows:
            end = parts.add("Add", rows, parts.array(np.asarray(sign * windows[side], np.int64)))
            inside = parts.add(comparison, columns, end)
            visible = inside if visible is None else parts.add("And", visible, inside)
    if mask is not None and mask.dtype == ir.DataType.BOOL:
        visible = parts.add("And", mask, visible)
    elif mask is not None:
        visible = parts.add("Where", visible, mask, parts.number(-np.inf))
    inputs = [input_of(node, index) for index in range(max(len(node.inputs), _MASK + 1))]
    inputs[_MASK] = visible
    parts.product("Attention", node, inputs, drop=(*_SIDES, "is_causal"))
    made = parts.nodes[-1]
    made.name = node.name
    made.resize_outputs(len(node.outputs))
    for index, output in enumerate(made.outputs):
        output.name = f"{node.outputs[0].name}.{index}.masked"
    return [output if is_used(node, index) else None for index, output in enumerate(made.outputs)]


def _axis_of_tokens(shape: ir.Shape) -> int:
    """Returns the axis of queries or keys: ``(B, heads, S, D)`` or ``(B, S, C)``."""
    return 2 if len(shape) == _RANK_OF_HEADS else 1


def _size(value: ir.Value, axis: int, parts: Parts) -> ir.Value:
    """Returns the size of an axis, as a scalar."""
    size = value.shape[axis] if value.shape is not None else None
    if isinstance(size, int):
        return parts.array(np.asarray(size, np.int64))
    return parts.add("Squeeze", parts.add("Shape", value, start=axis, end=axis + 1))


def _has_all_keys(mask: ir.Value | None, node: ir.Node) -> bool:
    """Whether a mask has a column for each key, or one for all: the keys behind a shorter one are hidden."""
    if mask is None:
        return True
    key, past = input_of(node, 1), input_of(node, _PAST)
    if mask.shape is None or key is None or key.shape is None or (past is not None and past.shape is None):
        return False
    columns = mask.shape[-1]
    sizes = [key.shape[_axis_of_tokens(key.shape)]]
    if past is not None and past.shape is not None:
        sizes.append(past.shape[2])
    if len(sizes) == 1 and sizes[0] == columns and columns is not None:
        return True
    known = [size for size in sizes if isinstance(size, int)]
    return columns == 1 or (len(known) == len(sizes) and columns == sum(known))
