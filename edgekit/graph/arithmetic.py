"""Reads arithmetic with numbers: the polynomial of a value that nodes compute, and what is done with a value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from edgekit.graph.layer_weights import constant_array

__all__ = ["is_close", "number_in", "polynomial", "replaced", "scaled_by", "sole_reader", "sources_of", "with_number"]

_DOMAINS = ("", "ai.onnx")
_MAX_DEPTH = 8
_MAX_DEGREE = 3
_TOLERANCE = 5e-6
"""Relative: exporters write constants in single precision, and some with seven digits."""


def is_close(number: float, expected: float) -> bool:
    """Whether a constant is the expected one, up to rounding."""
    return math.isclose(number, expected, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE if expected == 0 else 0.0)


def number_in(value: ir.Value | None) -> float | None:
    """Returns the number of a constant of one floating-point element; None for other values."""
    array = constant_array(value) if value is not None and (value.const_value is not None) else None
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 and array.dtype.kind == "f" else None


def sole_reader(value: ir.Value) -> ir.Node | None:
    """Returns the node that alone reads a value, in its own graph; None if it is also an output."""
    uses = value.uses()
    node = next(iter(uses)).node if len(uses) == 1 and not value.is_graph_output() else None
    producer = value.producer()
    return node if node is not None and (producer is None or node.graph is producer.graph) else None


def with_number(node: ir.Node, value: ir.Value) -> tuple[float, float] | None:
    """Returns ``(a, b)`` of a node that computes ``a * value + b``; None if it computes something else."""
    if node.domain not in _DOMAINS:
        return None
    if node.op_type == "Neg":
        return -1.0, 0.0
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    first = node.inputs[0] is value
    number = number_in(node.inputs[1 if first else 0])
    if number is None or not (first or node.inputs[1] is value):
        return None
    if node.op_type == "Add":
        return 1.0, number
    if node.op_type == "Sub":
        return (1.0, -number) if first else (-1.0, number)
    if node.op_type == "Mul":
        return number, 0.0
    return (1 / number, 0.0) if first and number else None


def scaled_by(value: ir.Value) -> Iterator[tuple[ir.Value, float]]:
    """Yields ``(x, s)`` with ``value = s * x``: the value itself, and those before it that numbers scale."""
    for source, factor, offset in sources_of(value):
        if offset != 0:
            return
        yield source, factor


def sources_of(value: ir.Value) -> Iterator[tuple[ir.Value, float, float]]:
    """Yields ``(x, a, b)`` with ``value = a * x + b``: the value itself, and those before it that lead to it."""
    factor, offset = 1.0, 0.0
    for _ in range(_MAX_DEPTH):
        yield value, factor, offset
        node = value.producer()
        found = next(
            (
                (source, step)
                for source in (node.inputs if node is not None else ())
                if node is not None and source is not None and number_in(source) is None
                if (step := with_number(node, source)) is not None
            ),
            None,
        )
        if found is None:
            return
        value, (a, b) = found
        factor, offset = factor * a, factor * b + offset


def polynomial(value: ir.Value | None, x: ir.Value, depth: int = _MAX_DEPTH) -> tuple[float, ...] | None:
    """Returns the coefficients of the polynomial of ``x`` that ``value`` is, from the constant term up to the third.

    Returns:
        None if it is no polynomial of ``x`` alone, or one of a higher degree.
    """
    if value is None:
        return None
    if value is x:
        return 0.0, 1.0
    number = number_in(value)
    if number is not None:
        return (number,)
    node = value.producer()
    if node is None or node.domain not in _DOMAINS or not depth or node.op_type not in _OPERATORS:
        return None
    parts = [polynomial(part, x, depth - 1) for part in node.inputs]
    known = [part for part in parts if part is not None]
    found = _combined(node.op_type, known) if known and len(known) == len(parts) else None
    return found if found is not None and len(found) <= _MAX_DEGREE + 1 else None


_OPERATORS = frozenset({"Add", "Div", "Mul", "Neg", "Pow", "Sub"})


def _combined(operator: str, parts: list[tuple[float, ...]]) -> tuple[float, ...] | None:
    first, second = np.asarray(parts[0]), np.asarray(parts[-1])
    if operator == "Neg":
        result = -first
    elif operator in ("Add", "Sub"):
        result = np.zeros(max(len(first), len(second)))
        result[: len(first)] += first
        result[: len(second)] += second if operator == "Add" else -second
    elif operator == "Mul":
        result = np.convolve(first, second)
    elif len(second) > 1:
        return None
    elif operator == "Div":
        if second[0] == 0:
            return None
        result = first / second[0]
    else:
        if second[0] not in (1, 2, 3):
            return None
        result = np.asarray([1.0])
        for _ in range(int(second[0])):
            result = np.convolve(result, first)
    return tuple(result.tolist())


def replaced(
    node: ir.Node,
    operator: str,
    inputs: list[ir.Value | None],
    attributes: Mapping[str, int | float | str] | None = None,
) -> ir.Node | None:
    """Replaces ``node`` by another operator of the same output, and leaves what only it read to `RemoveDead`.

    Args:
        node: has one output.
        operator: an operator whose output has the shape of its first input.
        inputs: its inputs.
        attributes: its attributes.

    Returns:
        The new node, with the name of ``node``; None if the output of ``node`` has another rank than the first input,
        because a constant of many axes was broadcast to it.
    """
    graph, source, result = node.graph, inputs[0], node.outputs[0]
    if graph is None or source is None or source.shape is None or result.shape is None:
        return None
    if len(source.shape) != len(result.shape) or source.dtype != result.dtype:
        return None
    new = ir.node(operator, inputs, attributes, name=node.name)
    new.outputs[0].type, new.outputs[0].shape = result.type, result.shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], [new], [result], [new.outputs[0]])
    return new
