"""Narrows the range of the input of a SiLU, HardSwish or HardSigmoid: values beyond it all become the same number."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgekit.quantize.plan import Plan

__all__ = ["clipped_silu_ranges"]

Range = tuple[float, float]

STEPS = 255
# The minimum of x * sigmoid(x) is at -1.2785; below it, the function rises towards zero.
SILU_MINIMUM = -1.2785
# Largest error at the lower limit, as a fraction of the step of the SiLU's output: it is rounded to zero, as the right
# value is. At half a step, all values beyond the limit could become one step, which adds up in the next layer.
PART_OF_STEP = 0.25
ITERATIONS = 50
# HardSwish is 0 below it.
HARD_SWISH_MINIMUM = -3.0


def clipped_silu_ranges(plan: Plan, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Computes ranges in which the quantized input of each SiLU ends where its output is zero within half a step.

    ``x * sigmoid(x)`` is -0.03 at -5, and most of the range of a convolution before it may be below. HardSwish and
    HardSigmoid are constant outside of an interval, so that nothing is lost there. This applies to targets that
    quantize the convolution's output; others fuse the activation function.

    Args:
        plan: what is quantized.
        ranges: min and max of each tensor by name.

    Returns:
        All of ``ranges``, some with a larger min or a smaller max.
    """
    clipped = dict(ranges)
    for value in plan.tensors:
        output = _silu_of(value)
        name, after = str(value.name), str(output.name) if output is not None else ""
        if name in ranges and after in ranges:
            lo, hi = ranges[name]
            limit = _lower_limit(PART_OF_STEP * (ranges[after][1] - ranges[after][0]) / STEPS)
            clipped[name] = min(max(lo, limit), 0.0), hi
        elif name in ranges and (limits := _hard_limits(value)) is not None:
            clipped[name] = _cut(ranges[name], limits)
    return clipped


def _cut(whole: Range, limits: Range) -> Range:
    """Cuts a range at limits, a step beyond each: zero is a multiple of the step, so that the ends move by half of one.

    An end inside of the limits would give all values beyond it another result than the right one.
    """
    lo, hi = max(whole[0], limits[0]), min(whole[1], limits[1])
    step = max(hi - lo, 0.0) / (STEPS - 2)
    return min(max(whole[0], limits[0] - step), 0.0), max(min(whole[1], limits[1] + step), 0.0)


def _hard_limits(value: ir.Value) -> Range | None:
    """Returns the interval outside of which the HardSwish or HardSigmoid that alone reads ``value`` is flat.

    That of HardSwish has no upper limit.
    """
    readers = [use.node for use in value.uses()]
    if len(readers) != 1 or value.is_graph_output():
        return None
    if readers[0].op_type == "HardSwish":
        return HARD_SWISH_MINIMUM, np.inf
    if readers[0].op_type == "HardSigmoid":
        alpha, beta = readers[0].attributes.get_float("alpha", 0.2), readers[0].attributes.get_float("beta", 0.5)
        return (-beta / alpha, (1 - beta) / alpha) if alpha > 0 else None
    return None


def _silu_of(value: ir.Value) -> ir.Value | None:
    """Returns ``value * sigmoid(value)``, if nothing else reads ``value``."""
    readers = [use.node for use in value.uses()]
    sigmoids = [node for node in readers if node.op_type == "Sigmoid"]
    products = [node for node in readers if node.op_type == "Mul"]
    if len(readers) != 2 or len(sigmoids) != 1 or len(products) != 1 or value.is_graph_output():
        return None
    gate = sigmoids[0].outputs[0]
    alone = len(gate.uses()) == 1 and not gate.is_graph_output()
    return products[0].outputs[0] if alone and gate in products[0].inputs else None


def _lower_limit(error: float) -> float:
    """Returns the x where ``-x * sigmoid(x)`` is ``error``, below `SILU_MINIMUM`, or that if it is never above."""
    low, high = -100.0, SILU_MINIMUM
    if -high / (1 + np.exp(-high)) <= error:
        return high
    for _ in range(ITERATIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if -middle / (1 + np.exp(-middle)) < error else (low, middle)
    return low
