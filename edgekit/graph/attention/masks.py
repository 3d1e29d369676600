"""Finds the masks of attention: what is added to the scores, or replaces those of hidden keys."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from edgekit.graph.attention.walk import MAX_PATH, is_constant, only_forwards, producer_of, readers_of, scaled_by_number
from edgekit.graph.shape_values import number_of, sizes_of

__all__ = ["HIDING", "Mask", "is_causal", "leads_to_product", "masked_by"]

HIDING = -1e4
"""What is added to a score, or replaces it, hides the key if it is this or less: ``exp(-1e4)`` is 0, and half precision
ends at -65504."""

_MAX_MASK_ELEMENTS = 1 << 24


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


def masked_by(node: ir.Node, *, in_view: bool) -> tuple[ir.Value, Mask] | None:
    """Returns the scores and the mask that ``node`` applies to them."""
    if node.op_type == "Add":
        first, second = node.inputs
        for scores, other in ((first, second), (second, first)):
            if scores is None or other is None or not leads_to_product(scores):
                continue
            if not _broadcasts_to(other, scores):
                return None
            return scores, Mask("added", other, node, view=scores if in_view else None)
    if node.op_type == "Where":
        condition, then, otherwise = node.inputs
        for scores, other, kind in ((then, otherwise, "visible"), (otherwise, then, "hidden")):
            fill = number_of(other)
            if scores is None or condition is None or fill is None or fill > HIDING or not leads_to_product(scores):
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


def leads_to_product(value: ir.Value) -> bool:
    """Whether a product of two activations is behind ``value``, through masks, scales and views."""
    ahead: list[ir.Value | None] = [value]
    for _ in range(MAX_PATH):
        node = producer_of(ahead.pop()) if ahead else None
        if node is None or len(readers_of(node.outputs[0])) != 1:
            continue
        if node.op_type == "MatMul":
            if not any(is_constant(each) for each in node.inputs):
                return True
        elif node.op_type in ("Add", "Where"):
            ahead += node.inputs
        elif (scaled := scaled_by_number(node)) is not None:
            ahead.append(scaled[0])
        elif node.op_type == "Reshape" or only_forwards(node):
            ahead.append(node.inputs[0])
    return False


def is_causal(mask: Mask) -> bool:
    """Returns whether the mask hides the keys after the query, and no others."""
    tensor = mask.value.const_value if is_constant(mask.value) else None
    if tensor is None or len(tensor.shape) < 2 or tensor.size > _MAX_MASK_ELEMENTS:
        return _is_computed_triangle(mask)
    array = tensor.numpy()
    hidden = array <= HIDING if mask.kind == "added" else array == (mask.kind == "hidden")
    later = np.triu(np.ones(array.shape[-2:], bool), 1)
    zeros = mask.kind != "added" or not array[~hidden].any()
    return array.shape[-2] == array.shape[-1] and zeros and bool((hidden == later).all())


def _is_computed_triangle(mask: Mask) -> bool:
    """Whether the mask is ``Where(Equal(Trilu(1), 0), -inf, 0)``, as torch's exporter computes it for any length."""
    choice = producer_of(mask.value)
    if mask.kind != "added" or choice is None or choice.op_type != "Where":
        return False
    then, otherwise = number_of(choice.inputs[1]), number_of(choice.inputs[2])
    equal = producer_of(choice.inputs[0])
    if equal is None or equal.op_type != "Equal" or number_of(equal.inputs[1]) != 0 or otherwise != 0:
        return False
    triangle = producer_of(equal.inputs[0])
    lower = triangle is not None and triangle.op_type == "Trilu" and triangle.attributes.get_int("upper", 1) == 0
    diagonal = triangle.inputs[1] if triangle is not None and len(triangle.inputs) > 1 else None
    ones = producer_of(triangle.inputs[0]) if triangle is not None else None
    filled = ones is not None and ones.op_type == "Expand" and number_of(ones.inputs[0]) == 1
    hides = then is not None and then <= HIDING
    return lower and filled and hides and (diagonal is None or number_of(diagonal) == 0)
