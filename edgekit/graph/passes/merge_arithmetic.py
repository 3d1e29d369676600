"""Merges arithmetic with numbers that follows arithmetic of the same kind."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgekit.graph.arithmetic import number_in, replaced, sole_reader, with_number

__all__ = ["MergeArithmetic"]

_SCALES, _SHIFTS = frozenset({"Div", "Mul", "Neg"}), frozenset({"Add", "Sub"})


class MergeArithmetic(ir.passes.InPlacePass):
    """Merges a chain of Mul, Div and Neg with numbers into one Mul, of Add and Sub into one Add, of Clip into one.

    ``x * a / b`` becomes ``x * (a / b)``, ``x + a - b`` becomes ``x + (a - b)``. Both kinds together stay in their
    order: ``(x - m) * a`` loses digits as ``x * a - m * a`` if ``m`` is large. Numbers are computed in float64 and
    rounded once.

    Preconditions: Constant nodes have been converted (`FoldConstants`); values have their ranks.
    Postconditions: no such node follows another one of its kind that it alone reads, unless the merged number is 0 or
        not finite in the element type. The last node keeps its name and its output. Nodes that nothing reads any more
        are left to `RemoveDead`.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph.all_nodes()):
            if node.graph is None or node.domain != "":
                continue
            if node.op_type == "Clip":
                modified = _merge_clips(node) or modified
            elif node.op_type in _SCALES | _SHIFTS:
                modified = _merge_numbers(node) or modified
        return ir.passes.PassResult(model, modified=modified)


def _merge_numbers(node: ir.Node) -> bool:
    """Merges the nodes before ``node`` into it, if it is the last of a chain."""
    kind = _SCALES if node.op_type in _SCALES else _SHIFTS
    found, steps = _step(node), 0
    reader = sole_reader(node.outputs[0])
    if found is None or (reader is not None and reader.op_type in kind and _step(reader) is not None):
        return False
    x, factor, offset = found
    while (before := x.producer()) is not None and before.op_type in kind and sole_reader(x) is not None:
        step = _step(before)
        if step is None or before.graph is not node.graph:
            break
        x, a, b = step
        factor, offset, steps = factor * a, factor * b + offset, steps + 1
    # A Sub from a number is of both kinds.
    if not steps or (kind is _SHIFTS and factor != 1) or x.dtype is None:
        return False
    number = np.asarray(factor if kind is _SCALES else offset, x.dtype.numpy())
    if not np.isfinite(number) or abs(float(number)) < float(np.finfo(number.dtype).tiny):
        return False
    constant = _constant(node, number)
    return constant is not None and replaced(node, "Mul" if kind is _SCALES else "Add", [x, constant]) is not None


def _step(node: ir.Node) -> tuple[ir.Value, float, float] | None:
    """Returns ``(x, a, b)`` of a node that computes ``a * x + b``."""
    for value in node.inputs:
        found = with_number(node, value) if value is not None and number_in(value) is None else None
        if value is not None and found is not None and (value.dtype is not None and value.dtype.is_floating_point()):
            return value, *found
    return None


def _merge_clips(node: ir.Node) -> bool:
    inner = node.inputs[0].producer() if node.inputs[0] is not None else None
    if inner is None or inner.op_type != "Clip" or inner.domain != "" or inner.graph is not node.graph:
        return False
    x = inner.inputs[0]
    first, second = _limits(inner), _limits(node)
    if x is None or x.dtype is None or first is None or second is None:
        return False
    limits = [min(max(limit, second[0]), second[1]) for limit in first]
    constants = [_constant(node, np.asarray(limit, x.dtype.numpy())) for limit in limits]
    return None not in constants and replaced(node, "Clip", [x, *constants]) is not None


def _limits(clip: ir.Node) -> tuple[float, float] | None:
    """Returns the limits of a Clip, infinite where there is none; None if they are computed, or in the wrong order."""
    values = [*clip.inputs[1:], None, None][:2]
    numbers = [number_in(value) for value in values]
    if any(value is not None and number is None for value, number in zip(values, numbers, strict=True)):
        return None
    low, high = (-math.inf if numbers[0] is None else numbers[0]), (math.inf if numbers[1] is None else numbers[1])
    return (low, high) if low <= high else None


def _constant(node: ir.Node, number: np.ndarray) -> ir.Value | None:
    """Adds a number to the graph of ``node``."""
    graph, name = node.graph, f"{node.outputs[0].name}.number"
    if not isinstance(graph, ir.Graph):
        return None
    while name in graph.initializers:
        name += "_merged"
    tensor = ir.tensor(number, name=name)
    value = ir.Value(name=name, shape=ir.Shape([]), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
