"""Evaluates the small vectors that a graph computes from shapes, such as the target of a Reshape, or 1 / sqrt(d)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import onnx_ir as ir

__all__ = ["Element", "elements_of", "number_of", "sizes_of", "target_of"]

Element: TypeAlias = "float | str | tuple[ir.Value, int] | None"
"""A number, the name of a dynamic size, the size of an axis without a name, or None if it is not known. Elements that
are equal, and not None, are the same number in each run."""

_MAX_ELEMENTS = 16
_MAX_DEPTH = 64
"""Nodes on a path. Exporters write chains of ten nodes or fewer."""
_SAME = frozenset({"Cast", "Identity", "Squeeze", "Unsqueeze"})
_NUMBERS: dict[str, Callable[..., float]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": lambda a, b: a / b,
    "Neg": lambda a: -a,
    "Pow": math.pow,
    "Reciprocal": lambda a: 1 / a,
    "Sqrt": math.sqrt,
}


def sizes_of(value: ir.Value) -> tuple[Element, ...] | None:
    """Returns the sizes of a value's dimensions; None if its rank is unknown."""
    if value.shape is None:
        return None
    return tuple(
        size if isinstance(size, int) else (size.value or (value, axis)) for axis, size in enumerate(value.shape)
    )


def number_of(value: ir.Value | None) -> float | None:
    """Returns a constant of one element, also if it is computed from fixed sizes."""
    elements = elements_of(value) if value is not None else None
    if elements is None or len(elements) != 1 or not isinstance(elements[0], (int, float)):
        return None
    return float(elements[0])


def target_of(reshape: ir.Node) -> tuple[Element, ...] | None:
    """Returns the sizes that a Reshape makes; those that it infers (-1) are None, or fixed by shape inference."""
    source, shape = reshape.inputs[:2]
    known, target = sizes_of(reshape.outputs[0]), elements_of(shape) if shape is not None else None
    if source is None or target is None:
        return known
    sizes: list[Element] = []
    for axis, size in enumerate(target):
        if size == 0 and not reshape.attributes.get_int("allowzero", 0):
            of_source = sizes_of(source)
            size = of_source[axis] if of_source is not None and axis < len(of_source) else None
        inferred = known[axis] if known is not None and axis < len(known) else None
        sizes.append(inferred if size in (-1, None) or isinstance(inferred, int) else size)
    return tuple(sizes)


def elements_of(value: ir.Value) -> tuple[Element, ...] | None:
    """Returns the elements of a scalar or a vector; None if it is large, or is not computed from shapes alone."""
    return _elements_of(value, {}, _MAX_DEPTH)


def _elements_of(
    value: ir.Value, known: dict[ir.Value, tuple[Element, ...] | None], depth: int
) -> tuple[Element, ...] | None:
    """Returns `elements_of`; ``known`` has the values that were evaluated before: many nodes may read one."""
    if value not in known:
        known[value] = _evaluated(value, known, depth - 1) if depth else None
    return known[value]


def _evaluated(
    value: ir.Value, known: dict[ir.Value, tuple[Element, ...] | None], depth: int
) -> tuple[Element, ...] | None:
    tensor = value.const_value if value.is_initializer() and not value.is_graph_input() else None
    if tensor is not None:
        return tuple(tensor.numpy().reshape(-1).tolist()) if tensor.size <= _MAX_ELEMENTS else None
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx") or not node.inputs or node.inputs[0] is None:
        return None
    if node.op_type == "Shape":
        sizes = sizes_of(node.inputs[0])
        end = node.attributes.get_int("end", len(sizes or ()))
        return None if sizes is None else sizes[node.attributes.get_int("start", 0) : end]
    read = [_elements_of(each, known, depth) if each is not None else None for each in node.inputs]
    if read[0] is None:
        return None
    if node.op_type in _SAME:
        return read[0]
    if node.op_type == "Concat":
        parts = [part for part in read if part is not None]
        fits = len(parts) == len(read) and sum(map(len, parts)) <= _MAX_ELEMENTS
        return tuple(element for part in parts for element in part) if fits else None
    if node.op_type in ("Gather", "Slice"):
        return _selected(node.op_type, read)
    return _computed(node.op_type, read)


def _selected(operator: str, read: list[tuple[Element, ...] | None]) -> tuple[Element, ...] | None:
    """Returns the elements that a Gather, or a Slice with step 1, takes of a vector."""
    source = read[0]
    places: list[int] = []
    for place in read[1:]:
        if place is None or len(place) != 1 or not isinstance(place[0], int):
            return None
        places.append(place[0])
    if source is None:
        return None
    if operator == "Gather":
        return source[places[0] :][:1] if places[0] >= -len(source) else None
    return source[places[0] : places[1]] if len(places) > 1 and places[3:] in ([], [1]) else None


def _computed(operator: str, read: list[tuple[Element, ...] | None]) -> tuple[Element, ...] | None:
    numbers = [part[0] for part in read if part is not None and len(part) == 1 and isinstance(part[0], (int, float))]
    if operator not in _NUMBERS or len(numbers) != len(read):
        return None
    try:
        return (_NUMBERS[operator](*numbers),)
    except (ArithmeticError, ValueError):
        return None
