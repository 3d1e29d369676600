"""Computes attention with EdgeKit's own kernels in a TensorRT engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgekit.graph.attention import HIDING, Attention, Mask, is_causal
from edgekit.graph.shape_values import Element, sizes_of
from edgekit.kernels.sdpa.node import DOMAIN, NAMESPACE
from edgekit.kernels.sdpa.variants import HEAD_SIZES
from edgekit.lower.attention_nodes import AttentionNodes, required_mask_shape, score_sizes
from edgekit.lower.replace_attention import ReplaceAttention
from edgekit.lower.rewriting import NotApplicable, constant

__all__ = ["AttentionAsPlugin"]

_HALF = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_INTEGERS = frozenset({ir.DataType.INT32, ir.DataType.INT64})
# Comparisons that are true for the first keys of a row, as (keys, lengths), and those that are false for them.
_SHOWS = {("Less", 0), ("Greater", 1)}
_HIDES = {("GreaterOrEqual", 0), ("LessOrEqual", 1)}
_KEEPS_ORDER = frozenset({"Unsqueeze", "Squeeze", "Reshape", "Identity"})


class AttentionAsPlugin(ReplaceAttention):
    """Replaces an attention in half precision by a node that TensorRT runs as a plugin; see `kernels.sdpa.node`.

    The kernels add and compute the softmax in FP32. Not yet measured on a GPU.

    Args:
        int8: multiply queries and keys in INT8.

    Preconditions: operators are standard ones. Values have their types and shapes.
    Postconditions: an attention that `find_attention` finds is replaced if its queries, keys and values are FP16, or
        BF16 without ``int8``, have three or four dimensions, equal batch sizes and numbers of heads, and a head size
        that has a kernel, and if the shapes of its masks are known to be those of the scores, or to be repeated. A
        causal mask and the number of keys of each row become the kernel's own; other masks are added. Results are the
        same up to rounding, except that a row that sees no key gives zeros. Unused nodes are left to `RemoveDead`.
    """

    runs_as = "EdgeKit's kernel, a plugin of TensorRT"

    def __init__(self, *, int8: bool = False) -> None:
        super().__init__()
        self._int8 = int8

    def replace(self, attention: Attention, graph: ir.Graph) -> None:
        """See `ReplaceAttention.replace`."""
        sizes = self._required_sizes(attention)
        masks = [mask for mask in attention.masks if not is_causal(mask)]
        shapes = [required_mask_shape(mask, sizes) for mask in masks]
        lengths = _key_lengths(masks[0], shapes[0], sizes) if len(masks) == 1 else None
        made = AttentionNodes(graph, attention)
        operator, inputs = "EdgeKitAttention", made.factors()
        attributes: dict[str, int | float | str] = {
            "plugin_namespace": NAMESPACE,
            "aot": 1,
            "scale": attention.scale,
            "head_size": attention.head_size or 0,
            "causal": int(attention.causal),
            "bottom_right": 0,
        }
        if self._int8:
            attributes["int8"] = 1
        if lengths is not None:
            operator = "EdgeKitPaddedAttention"
            flat = made.add("Reshape", [lengths, made.vector(-1)], "lengths")
            inputs.append(made.add("Cast", [flat], "lengths32", {"to": int(ir.DataType.INT32)}))
        elif masks:
            operator = "EdgeKitMaskedAttention"
            inputs.append(_added_mask(made, masks, attention.query.dtype))
            repeated = [all(shape[axis] == 1 for shape in shapes) for axis in range(3)]
            attributes["repeated"] = sum(2**axis for axis in range(3) if repeated[axis])
        made.replace_by(operator, inputs, attributes, DOMAIN)
        graph.opset_imports.setdefault(DOMAIN, 1)

    def _required_sizes(self, attention: Attention) -> tuple[Element, ...]:
        """Returns the sizes of the scores, in four dimensions; raises `NotApplicable` if the kernels do not fit."""
        types = {each.dtype for each in (attention.query, attention.key, attention.value, attention.output)}
        if attention.pairs or len(types) != 1 or not types <= _HALF:
            raise NotApplicable("it is not half precision")
        if self._int8 and types != {ir.DataType.FLOAT16}:
            raise NotApplicable("it is bfloat16, and INT8 needs float16")
        sizes = score_sizes(attention)
        query, value = sizes_of(attention.query) or (), sizes_of(attention.value) or ()
        if query[-1] not in HEAD_SIZES or value[-1] != query[-1]:
            listed = ", ".join(map(str, HEAD_SIZES))
            raise NotApplicable(f"its head size is {_text(value[-1])}, and kernels have {listed}")
        if attention.scale <= 0:
            raise NotApplicable("its scale is not positive")
        return sizes


def _added_mask(made: AttentionNodes, masks: Sequence[Mask], dtype: ir.DataType | None) -> ir.Value:
    """Returns the sum of the masks, in the type of the queries and in four dimensions; hidden keys have -inf."""
    assert dtype is not None
    total: ir.Value | None = None
    rank = 0
    for index, mask in enumerate(masks):
        value = mask.value
        rank = max(rank, len(value.shape or ()))
        if mask.kind != "added":
            shown, hidden = (made.constant(np.asarray(number).astype(dtype.numpy())) for number in (0.0, -np.inf))
            order = (shown, hidden) if mask.kind == "visible" else (hidden, shown)
            value = made.add("Where", [value, *order], f"mask{index}")
        elif value.dtype != dtype:
            value = made.add("Cast", [value], f"mask{index}", {"to": int(dtype)})
        total = value if total is None else made.add("Add", [total, value], f"sum{index}")
    assert total is not None
    return made.in_four_dimensions(total, rank)


def _key_lengths(mask: Mask, shape: tuple[Element, ...], scores: tuple[Element, ...]) -> ir.Value | None:
    """Returns the numbers of keys, if the mask shows the first keys of each row and hides the others."""
    value, shows = mask.value, mask.kind == "visible"
    if shape[1:3] != (1, 1) or shape[0] != scores[0]:
        return None
    if mask.kind == "added":
        choice = _before(value, _KEEPS_ORDER)
        if choice is None or choice.op_type != "Where":
            return None
        numbers = [_number(each) for each in choice.inputs[1:]]
        if 0.0 not in numbers or not any(number is not None and number <= HIDING for number in numbers):
            return None
        value, shows = choice.inputs[0], numbers[0] == 0.0  # type: ignore[assignment]
    compare = _before(value, _KEEPS_ORDER)
    if compare is not None and compare.op_type == "Not":
        compare, shows = _before(compare.inputs[0], _KEEPS_ORDER), not shows
    if compare is None or len(compare.inputs) != 2:
        return None
    places = [place for place, each in enumerate(compare.inputs) if _counts_up(each, scores[3])]
    if len(places) != 1 or (compare.op_type, places[0]) not in (_SHOWS if shows else _HIDES):
        return None
    lengths = compare.inputs[1 - places[0]]
    sizes = sizes_of(lengths) if lengths is not None else None
    if lengths is None or not sizes or sizes[-1] != 1 or lengths.dtype not in _INTEGERS:
        return None
    return lengths if [size for size in sizes if size != 1] == [size for size in scores[:1] if size != 1] else None


def _before(value: ir.Value | None, passed: frozenset[str]) -> ir.Node | None:
    """Returns the node that computes a value, before nodes that only change its shape."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in passed and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node


def _number(value: ir.Value | None) -> float | None:
    tensor = constant(value)
    return float(tensor.numpy().reshape(())) if tensor is not None and tensor.size == 1 else None


def _counts_up(value: ir.Value | None, count: Element) -> bool:
    """Whether a constant is ``0, 1, …, count - 1`` in its last dimension, and has no other."""
    tensor = constant(value)
    if tensor is None or tensor.size != count or not tensor.shape or tensor.shape[-1] != count:
        return False
    return bool((tensor.numpy().reshape(-1) == np.arange(tensor.size)).all())


def _text(size: Element) -> str:
    return str(size) if isinstance(size, (int, str)) else "not fixed"
