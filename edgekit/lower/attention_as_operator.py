"""Computes attention with ONNX's own operator, which TensorRT reads since 10.14."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgekit.graph.attention import Attention, is_causal
from edgekit.graph.opset import raise_opset
from edgekit.graph.shape_values import Element, sizes_of
from edgekit.lower.attention_nodes import AttentionNodes, required_mask_shape, score_sizes
from edgekit.lower.replace_attention import ReplaceAttention
from edgekit.lower.rewriting import NotApplicable

__all__ = ["OPSET", "AttentionAsOperator"]

OPSET = 23
"""The first opset with the operator Attention."""

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


class AttentionAsOperator(ReplaceAttention):
    """Replaces an attention by ONNX's ``Attention``, which TensorRT's parser makes an ``IAttention`` of.

    The restrictions are TensorRT's (NVIDIA, "TensorRT Operators", Attention): a mask that is added has all rows and the
    type of the queries, and goes with no causal attention. TensorRT's parser multiplies queries and keys by the root of
    the scale, which is therefore positive.

    Preconditions: operators are standard ones. Values have their types and shapes.
    Postconditions: an attention that `find_attention` finds is replaced if its factors have one float type, no Q/DQ
        pairs, three or four dimensions, equal batch sizes, numbers of heads and head sizes, and if the shapes of its
        masks are known to be those of the scores, or to be repeated. The graph then has opset 23. Results are the same
        up to rounding, except for a row that sees no key because all of them have the same finite score: it is weighed
        as if it saw all. Unused nodes are left to `RemoveDead`.
    """

    runs_as = "ONNX's Attention, which TensorRT reads since 10.14"

    def __init__(self) -> None:
        super().__init__()
        # The layers of a Transformer have one mask.
        self._masks: dict[tuple[object, ...], ir.Value] = {}

    def replace(self, attention: Attention, graph: ir.Graph) -> None:
        """See `ReplaceAttention.replace`."""
        _require_form(attention)
        sizes = score_sizes(attention)
        shapes = [required_mask_shape(mask, sizes) for mask in attention.masks]
        if reason := raise_opset(graph, OPSET):
            raise NotApplicable(f"the operator needs opset {OPSET}, and {reason}")
        made = AttentionNodes(graph, attention)
        inputs = made.factors()
        causal = len(attention.masks) == 1 and is_causal(attention.masks[0])
        if attention.masks and not causal:
            rows = sizes[2] if all(shape[2] == 1 for shape in shapes) and sizes[2] != 1 else None
            parts = [(mask.value, mask.kind, mask.fill) for mask in attention.masks]
            key = (attention.query.dtype, rows, *parts)
            if key not in self._masks:
                self._masks[key] = _mask(made, attention, rows)
            inputs.append(self._masks[key])
        made.replace_by("Attention", inputs, {"scale": attention.scale, "is_causal": int(causal)})


def _require_form(attention: Attention) -> None:
    factors = (attention.query, attention.key, attention.value)
    if attention.pairs:
        raise NotApplicable("its products are quantized")
    if attention.guard:
        raise NotApplicable("it has a guard against NaN between its products")
    if len({each.dtype for each in (*factors, attention.output)}) != 1 or attention.query.dtype not in _FLOATS:
        raise NotApplicable("it is not of one float type")
    # TensorRT-RTX 1.7 crashes otherwise.
    if len(set(factors)) != len(factors):
        raise NotApplicable("its queries, keys and values are not three tensors")
    query, value = sizes_of(attention.query), sizes_of(attention.value)
    if query is None or value is None or query[-1] != value[-1]:
        raise NotApplicable("its values have another size than its keys")
    if attention.scale <= 0:
        raise NotApplicable("its scale is not positive")


def _mask(made: AttentionNodes, attention: Attention, rows: Element) -> ir.Value:
    """Returns one mask for all, in four dimensions.

    Args:
        made: receives the nodes.
        attention: the attention.
        rows: number of queries, if the mask is the same for all of them; else None.
    """
    masks = attention.masks
    dimensions = max(len(mask.value.shape or ()) for mask in masks)
    parts = [_added(made, attention, index) for index in range(len(masks))]
    total = parts[0]
    for index, part in enumerate(parts[1:]):
        total = made.add("Add", [total, part], f"masks{index}")
    total = made.in_four_dimensions(total, dimensions)
    if rows is None:
        return total
    return made.add("Expand", [total, _with_rows(made, attention, rows)], "mask_rows")


def _added(made: AttentionNodes, attention: Attention, index: int) -> ir.Value:
    """Returns what a mask adds to the scores, in the queries' type."""
    mask, dtype = attention.masks[index], attention.query.dtype
    assert dtype is not None
    lowest = _lowest(dtype)
    if mask.kind != "added":
        fill = mask.fill if mask.fill == -math.inf else max(mask.fill, lowest)
        shown, hidden = (made.constant(np.asarray(number).astype(dtype.numpy())) for number in (0.0, fill))
        order = (shown, hidden) if mask.kind == "visible" else (hidden, shown)
        return made.add("Where", [mask.value, *order], f"mask{index}")
    value = mask.value
    if value.dtype == dtype:
        return value
    # The lowest float32, with which many exporters hide keys, is no float16; -inf would make rows without keys NaN.
    assert value.dtype is not None
    bound = made.constant(np.asarray(lowest).astype(value.dtype.numpy()))
    infinite = made.add("IsInf", [value], f"infinite{index}")
    bounded = made.add("Max", [value, bound], f"bounded{index}")
    value = made.add("Where", [infinite, value, bounded], f"finite{index}")
    return made.add("Cast", [value], f"mask{index}", {"to": int(dtype)})


def _lowest(dtype: ir.DataType) -> float:
    """Returns a number that hides a key, and stays finite when a score is added to it."""
    return -32768.0 if dtype == ir.DataType.FLOAT16 else float(np.finfo(np.float32).min) / 2


def _with_rows(made: AttentionNodes, attention: Attention, rows: Element) -> ir.Value:
    """Returns the shape that repeats the only row of a mask."""
    if isinstance(rows, int):
        return made.vector(1, 1, rows, 1)
    length = made.add("Shape", [attention.query], "rows", {"start": -2, "end": -1})
    ones = [made.vector(1, 1), length, made.vector(1)]
    return made.add("Concat", ones, "mask_shape", {"axis": 0})
