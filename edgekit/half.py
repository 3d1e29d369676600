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

__all__ = ["checked_half"]

Ranges = Mapping[str, tuple[float, float]]


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
    cast = cast_graph(source.graph, order.precision, ranges, keep_float=order.keep_float, io=order.half_io)
    errors = cast_errors(source.graph, inputs, exact, threads=cpu().compute_threads)
    require_small_errors(errors, order.precision)
    return cast, max(errors.values(), default=0.0)
