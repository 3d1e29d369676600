"""Finds the arithmetic of normalizations: divisions by a root, means along axes, squares."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.graph.arithmetic import number_in
from edgekit.graph.layer_weights import constant_array

__all__ = ["divided_by_root", "mean_of", "square_of", "sum_with_number"]


def _producer(value: ir.Value | None, *operators: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.domain == "" and node.op_type in operators else None


def divided_by_root(node: ir.Node) -> list[tuple[ir.Value, ir.Node]]:
    """Returns each dividend and the Add below the root, if ``node`` divides by a root, in whatever form."""
    first, second = node.inputs
    found = []
    for value, other in ((first, second), (second, first)):
        if node.op_type == "Div" and value is not first:
            continue
        root = other
        if node.op_type == "Mul":
            inverse = _producer(other, "Reciprocal", "Div", "Pow")
            if inverse is None:
                continue
            if inverse.op_type == "Div" and number_in(inverse.inputs[0]) != 1:
                continue
            root = inverse.inputs[1 if inverse.op_type == "Div" else 0]
            if inverse.op_type == "Pow":
                add = _producer(root, "Add") if number_in(inverse.inputs[1]) == -0.5 else None
                found += [(value, add)] if add is not None and value is not None else []
                continue
        power = _producer(root, "Sqrt", "Pow")
        if power is None or (power.op_type == "Pow" and number_in(power.inputs[1]) != 0.5):
            continue
        add = _producer(power.inputs[0], "Add")
        found += [(value, add)] if add is not None and value is not None else []
    return found


def mean_of(value: ir.Value | None) -> tuple[ir.Value | None, tuple[int, ...] | None]:
    """Returns what a ReduceMean reads and the axes that it keeps as one, counted from the end."""
    node = _producer(value, "ReduceMean")
    source = node.inputs[0] if node is not None else None
    if node is None or source is None or source.shape is None or node.attributes.get_int("keepdims", 1) != 1:
        return None, None
    axes = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    given = axes.tolist() if axes is not None else list(node.attributes.get_ints("axes", ()))
    rank = len(source.shape)
    return source, tuple(sorted(axis % rank - rank for axis in given))


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
