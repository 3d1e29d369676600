"""FP16 and BF16 as a step of the build: the graph typed in half precision, and checked by its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.device.cpu import cpu
from edgekit.int8 import answers
from edgekit.order import Order
from edgekit.quantize.cast import Cast, cast_graph
from edgekit.quantize.cast_check import cast_errors, require_small_errors
from edgekit.source import ModelSource
from edgekit.specs import Precision

__all__ = ["checked_half", "to_half"]

Ranges = Mapping[str, tuple[float, float]]


def to_half(source: ModelSource, order: Order, precision: Precision, ranges: Ranges) -> Cast:
    """Types the source's graph in half precision, in place."""
    # Patterns of what stays in float were matched before Q/DQ nodes were put in.
    keep = (*(source.policy.keep_float if source.policy else ()), *order.keep_float)
    return cast_graph(source.graph, precision, ranges, keep_float=keep, io=order.half_io)


def checked_half(
    source: ModelSource, order: Order, ranges: Ranges, inputs: Sequence[dict[str, np.ndarray]]
) -> tuple[Cast, float]:
    """Types the source's graph in the order's precision, in place, and compares it with what it was on ``inputs``.

    Returns:
        What was done, and the largest relative error of any output.

    Raises:
        AccuracyError: an output has lost more than the precision may; names the worst.
    """
    exact = answers(source.graph, inputs)
    cast = to_half(source, order, order.precision, ranges)
    errors = cast_errors(source.graph, inputs, exact, threads=cpu().compute_threads)
    require_small_errors(errors, order.precision)
    return cast, max(errors.values(), default=0.0)
