"""Finds the parts of a graph's outputs that are judged alone; see `edgekit.quantize.output_form`."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from edgekit.graph.operators import SELECTING
from edgekit.quantize.output_form import MOST_COLUMNS, WHOLE, OutputForm, Part, Select
from edgekit.recipe.heads import CellHeads, Detr, Head, YoloHead, YoloV1, YoloV5, YoloV8, YoloX
from edgekit.recipe.schema import Postprocess

__all__ = ["concatenated_columns", "forms_of_outputs", "selected_values", "values_behind"]

PROBABILITIES = frozenset({"HardSigmoid", "Sigmoid", "Softmax"})
_SAME_AXES = frozenset({"Cast", "Clip", "DequantizeLinear", "Identity", "QuantizeLinear"})
_BY_NUMBER = frozenset({"Add", "Div", "Mod", "Mul", "Sub"})
_SAME_NUMBERS = _SAME_AXES | {"Flatten", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}


def forms_of_outputs(graph: ir.Model, postprocess: Postprocess | None = None) -> dict[str, OutputForm]:
    """Finds the form of each output: from the head if it is known, else from the nodes before it.

    Args:
        graph: the float graph, with inferred shapes.
        postprocess: the head; None if there is none.
    """
    known = _parts_of_head(postprocess.head) if postprocess is not None else {}
    selected = selected_values(graph.graph)
    forms = {}
    for value in graph.graph.outputs:
        name = value.name or ""
        if name in known:
            forms[name] = OutputForm(known[name], value in selected)
        else:
            unordered = _unordered_axis(value)
            forms[name] = OutputForm(_parts_of_value(value), value in selected and unordered is None, unordered)
    return forms


def _parts_of_head(head: Head) -> dict[str, tuple[Part, ...]]:
    """Returns the parts of each output of a head; see its family in `edgekit.recipe.heads` for the order of values."""
    if isinstance(head, CellHeads):
        return {each.output: _parts_of_cells(each, isinstance(head, YoloV1)) for each in head.heads}
    if isinstance(head, Detr):
        if head.logits:
            return {head.boxes: (Part("boxes", _whole),), head.logits: (Part("scores", _whole),)}
        return {head.boxes: (Part("boxes", _columns(-1, 0, 4)), Part("scores", _columns(-1, 4, None)))}
    if not isinstance(head, YoloV5 | YoloV8 | YoloX):
        return {}  # its outputs are sorted detections, whose form the nodes before them tell
    axis = 1 if isinstance(head, YoloV8) and head.layout == "channels-first" else -1
    probability = head.activation == "none"
    boxes = Part("boxes", _columns(axis, 0, 4))
    if isinstance(head, YoloX) or not head.extras:
        return {head.output: (boxes, Part("scores", _columns(axis, 4, None), probability))}
    rest = "coefficients of masks" if head.masks else "key points" if head.keypoints[0] else "angles"
    scores = Part("scores", _columns(axis, 4, -head.extras), probability)
    return {head.output: (boxes, scores, Part(rest, _columns(axis, -head.extras, None)))}


def _parts_of_cells(head: YoloHead, is_v1: bool) -> tuple[Part, ...]:
    """Returns the boxes and the scores of a raw output; see `YoloHead` for their order."""

    def of_cells(array: np.ndarray) -> np.ndarray:
        return array.reshape(len(array), len(head.anchors), -1, *array.shape[2:])

    if is_v1:
        boxes = 4 * head.boxes
        return Part("boxes", lambda array: array[:, -boxes:]), Part("scores", lambda array: array[:, :-boxes])
    return (
        Part("boxes", lambda array: of_cells(array)[:, :, :4]),
        Part("scores", lambda array: of_cells(array)[:, :, 4:], head.new_coords),
    )


def _whole(array: np.ndarray) -> np.ndarray:
    return array


def selected_values(graph: ir.Graph) -> set[ir.Value]:
    """Returns the values that depend on a node that selects by value."""
    return values_behind(graph, SELECTING)


def values_behind(graph: ir.Graph, operators: Collection[str]) -> set[ir.Value]:
    """Returns the values that depend on a node with one of these operators."""
    found: set[ir.Value] = set()
    for node in graph:
        if node.op_type in operators or any(value in found for value in node.inputs if value is not None):
            found.update(node.outputs)
    return found


def _unordered_axis(value: ir.Value) -> int | None:
    """Returns the axis of an output along which the order of what a TopK wrote means nothing; None without a TopK.

    ONNX leaves the order of an unsorted TopK to the runtime. Indices of equal values are in the order of the values,
    which no rounding may exchange: they are compared as a set too.
    """
    node = value.producer()
    while node is not None and (node.op_type in _SAME_AXES or _is_by_number(node)) and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    if node is None or node.op_type != "TopK":
        return None
    if node.attributes.get_int("sorted", 1) != 0 and value is not node.outputs[1]:
        return None
    return node.attributes.get_int("axis", -1)


def _is_by_number(node: ir.Node) -> bool:
    """Whether a node computes each element with the same number, as the class of a box from its index."""
    other = node.inputs[1] if len(node.inputs) > 1 else None
    number = ir.convenience.get_const_tensor(other) if other is not None else None
    return node.op_type in _BY_NUMBER and number is not None and number.size == 1


def _parts_of_value(value: ir.Value) -> tuple[Part, ...]:
    """Returns what is concatenated into an output, along the axis with the fewest columns.

    Without a Concat, it is the whole output if that holds probabilities, else nothing: the nodes do not tell.
    """
    axis, limits, joined = _joined_columns(value)
    # Rows that were selected by value are compared as a matrix, whose last axis is that of the output.
    if value.shape is not None and axis == len(value.shape) - 1:
        axis = -1
    whole_is_probability = _is_probability(value)
    if not limits:
        return (WHOLE._replace(probability=True),) if whole_is_probability else ()
    return tuple(
        Part(f"{start}:{stop}", _columns(axis, start, stop), whole_is_probability or _is_probability(each))
        for (start, stop), each in zip(limits, joined, strict=True)
    )


def concatenated_columns(value: ir.Value) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Returns the axis of an output along which values are concatenated to it, and the limits of each of them.

    It is the axis with the fewest columns; no limits are returned if there is no Concat before the output.
    """
    axis, limits, _ = _joined_columns(value)
    return axis, limits


def _joined_columns(value: ir.Value) -> tuple[int, tuple[tuple[int, int], ...], list[ir.Value]]:
    best: tuple[int, int, ir.Node] | None = None
    for node, axis in _concats_before(value):
        size = value.shape[axis] if value.shape is not None else None
        if isinstance(size, int) and size <= MOST_COLUMNS and (best is None or size < best[0]):
            best = size, axis, node
    if best is None:
        return 0, (), []
    _, axis, node = best
    start, limits, joined = 0, [], []
    for each in node.inputs:
        size = each.shape[_axis_of(node)] if each is not None and each.shape is not None else None
        assert each is not None and isinstance(size, int)
        limits.append((start, start + size))
        joined.append(each)
        start += size
    return axis, tuple(limits), joined


def _columns(axis: int, start: int, stop: int | None) -> Select:
    index = (..., slice(start, stop)) if axis < 0 else (*(slice(None),) * axis, slice(start, stop))
    return lambda array: array[index]


def _axis_of(node: ir.Node) -> int:
    axis = node.attributes.get_int("axis", 0)
    shape = node.outputs[0].shape
    return axis % len(shape) if shape is not None and len(shape) else axis


def _concats_before(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """Yields each Concat whose parts are columns of the output ``value``, with the output's axis that it fills.

    Behind a Concat of rows, such as those of several scales, the first of them stands for all.
    """
    path: list[ir.Node] = []
    current: ir.Value | None = value
    while current is not None:
        node = current.producer()
        if node is None:
            return
        if node.op_type == "Concat" and all(_has_sizes(each, _axis_of(node)) for each in node.inputs):
            axis: int | None = _axis_of(node)
            for behind in reversed(path):
                axis = None if axis is None else _carried(behind, axis)
            if axis is not None:
                yield node, axis
        elif node.op_type not in _SAME_NUMBERS | PROBABILITIES:
            return
        path.append(node)
        current = node.inputs[0] if node.inputs else None


def _has_sizes(value: ir.Value | None, axis: int) -> bool:
    shape = value.shape if value is not None else None
    return shape is not None and len(shape) > axis and isinstance(shape[axis], int)


def _carried(node: ir.Node, axis: int) -> int | None:
    """Returns the axis of the node's output that is ``axis`` of its first input; None if there is no such axis."""
    before = node.inputs[0].shape if node.inputs[0] is not None else None
    after = node.outputs[0].shape
    if before is None or after is None:
        return None
    if node.op_type == "Transpose":
        order = list(node.attributes.get_ints("perm", range(len(before))[::-1]))
        return order.index(axis)
    if node.op_type == "Concat":
        return axis if axis != _axis_of(node) else None
    if node.op_type in _SAME_AXES | PROBABILITIES:
        return axis
    return _same_place(list(before), list(after), axis)


def _same_place(before: Sequence[object], after: Sequence[object], axis: int) -> int | None:
    """Returns the axis in a reshaped array that has the same numbers before it and the same size."""
    if not all(isinstance(size, int) for size in (*before, *after)):
        return None
    sizes, reshaped = [int(str(size)) for size in before], [int(str(size)) for size in after]
    ahead = math.prod(sizes[:axis])
    if math.prod(sizes) != math.prod(reshaped):
        return None  # a part of it
    places = [i for i, size in enumerate(reshaped) if size == sizes[axis] and math.prod(reshaped[:i]) == ahead]
    return places[0] if places else None


def _is_probability(value: ir.Value) -> bool:
    """Whether ``value`` holds probabilities: what a sigmoid or a softmax returned, moved but not computed with."""
    node = value.producer()
    while node is not None:
        if node.op_type in PROBABILITIES:
            return True
        if node.op_type == "Concat":
            return all(each is not None and _is_probability(each) for each in node.inputs)
        if node.op_type not in _SAME_NUMBERS or not node.inputs or node.inputs[0] is None:
            return False
        node = node.inputs[0].producer()
    return False
