"""Finds the arithmetic of normalizations: divisions by a root, means along axes, squares, variances."""

from __future__ import annotations

import math
from typing import NamedTuple

import onnx_ir as ir

from edgekit.graph.arithmetic import is_close, number_in
from edgekit.graph.layer_weights import constant_array

__all__ = ["Divided", "divided_by_root", "mean_of", "square_of", "sum_with_number", "variance_of"]

_SHAPING = frozenset({"Expand", "Reshape", "Squeeze", "Unsqueeze"})


class Divided(NamedTuple):
    """A division by the root of what an Add computes.

    Attributes:
        value: the dividend.
        add: the Add below the root.
        scale: what the inverse of the root is multiplied by before, if anything.
    """

    value: ir.Value
    add: ir.Node
    scale: ir.Value | None = None


def _producer(value: ir.Value | None, *operators: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.domain == "" and node.op_type in operators else None


def divided_by_root(node: ir.Node) -> list[Divided]:
    """Returns each way to read ``node`` as a division by a root, in whatever form."""
    first, second = node.inputs
    found = []
    for value, other in ((first, second), (second, first)):
        if value is None or (node.op_type == "Div" and value is not first):
            continue
        if node.op_type == "Div":
            found += [Divided(value, add) for add in _below_root(other)]
            continue
        found += [Divided(value, add) for add in _below_inverse_root(other)]
        scaled = _producer(other, "Mul")
        for inverse, scale in (scaled.inputs, scaled.inputs[::-1]) if scaled is not None else ():
            if constant_array(scale) is not None:
                found += [Divided(value, add, scale) for add in _below_inverse_root(inverse)]
    return found


def _below_inverse_root(value: ir.Value | None) -> list[ir.Node]:
    """Returns the Add below the root whose inverse ``value`` is."""
    inverse = _producer(value, "Reciprocal", "Div", "Pow")
    if inverse is None or (inverse.op_type == "Div" and number_in(inverse.inputs[0]) != 1):
        return []
    if inverse.op_type == "Pow":
        add = _producer(inverse.inputs[0], "Add") if number_in(inverse.inputs[1]) == -0.5 else None
        return [add] if add is not None else []
    return _below_root(inverse.inputs[1 if inverse.op_type == "Div" else 0])


def _below_root(value: ir.Value | None) -> list[ir.Node]:
    power = _producer(value, "Sqrt", "Pow")
    if power is None or (power.op_type == "Pow" and number_in(power.inputs[1]) != 0.5):
        return []
    add = _producer(power.inputs[0], "Add")
    return [add] if add is not None else []


def mean_of(value: ir.Value | None) -> tuple[ir.Value | None, tuple[int, ...] | None]:
    """Returns what a mean is taken of, and its axes, counted from the end, which ``value`` keeps as one."""
    x, axes = _reduced(value)
    return (x, axes) if value is not None and _keeps(value, x, axes) else (None, None)


def variance_of(value: ir.Value | None) -> tuple[ir.Value | None, tuple[int, ...] | None]:
    """Like `mean_of`, for a variance that is computed as ``mean(x ** 2) - mean(x) ** 2``, and cut off below zero."""
    variance = _unshaped(value)
    positive = _producer(variance, "Max", "Relu")
    if positive is not None:
        bounds = [number_in(each) for each in positive.inputs]
        if positive.op_type == "Max" and (len(bounds) != 2 or 0 not in bounds):
            return None, None
        variance = positive.inputs[1] if bounds[0] is not None else positive.inputs[0]
    difference = _producer(variance, "Sub")
    if difference is None:
        return None, None
    squares, axes = _reduced(difference.inputs[0])
    x, others = _reduced(square_of(difference.inputs[1]))
    same = x is not None and square_of(squares) is x and axes == others
    return (x, axes) if same and value is not None and _keeps(value, x, axes) else (None, None)


def _unshaped(value: ir.Value | None) -> ir.Value | None:
    """Returns what was reshaped to ``value``, of as many elements."""
    while (node := _producer(value, *_SHAPING)) is not None:
        if node.op_type == "Expand" and node.inputs[0] is not None and node.inputs[0].shape != node.outputs[0].shape:
            break
        value = node.inputs[0]
    return value


def _reduced(value: ir.Value | None) -> tuple[ir.Value | None, tuple[int, ...] | None]:
    """Returns what ``value`` is the mean of, in whatever shape, and its axes, counted from the end."""
    value = _unshaped(value)
    node, number = _producer(value, "ReduceMean"), None
    if node is None and (scaled := _producer(value, "Div", "Mul")) is not None:
        numbers = [number_in(each) for each in scaled.inputs]
        number = next((each for each in numbers if each), None)
        node = _producer(_unshaped(scaled.inputs[0 if numbers[0] is None else 1]), "ReduceSum")
        if number is None or (scaled.op_type == "Div" and numbers[0] is not None):
            return None, None
        number = number if scaled.op_type == "Div" else 1 / number
    source = node.inputs[0] if node is not None else None
    if node is None or source is None or source.shape is None:
        return None, None
    axes = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    given = axes.tolist() if axes is not None else list(node.attributes.get_ints("axes", ()))
    rank = len(source.shape)
    found = tuple(sorted(axis % rank - rank for axis in given))
    sizes = [source.shape[axis] for axis in found]
    if number is not None and not is_close(number, math.prod(each if isinstance(each, int) else 0 for each in sizes)):
        return None, None
    return source, found


def _keeps(value: ir.Value, x: ir.Value | None, axes: tuple[int, ...] | None) -> bool:
    """Whether ``value`` has the shape of ``x``, with these axes as one."""
    if x is None or axes is None or x.shape is None or value.shape is None:
        return False
    kept = list(x.shape)
    for axis in axes:
        kept[axis] = 1
    return kept == list(value.shape)


def square_of(value: ir.Value | None) -> ir.Value | None:
    """Returns what ``value`` is the square of."""
    node = _producer(value, "Mul", "Pow")
    if node is None:
        return None
    squared = node.inputs[0] is node.inputs[1] if node.op_type == "Mul" else number_in(node.inputs[1]) == 2
    return node.inputs[0] if squared else None


def sum_with_number(add: ir.Node) -> tuple[ir.Value | None, float | None]:
    """Returns what a number is added to below the root, and the number; None for it if there is none."""
    for value, other in (add.inputs, add.inputs[::-1]):
        epsilon = number_in(other)
        if epsilon is not None:
            return value, epsilon
    return None, None
