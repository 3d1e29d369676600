"""FP16 and BF16 as a step of the build: the graph typed in half precision, and checked by its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.config import Order
from edgekit.device.cpu import cpu
from edgekit.pipeline.calibrate import outputs_of
from edgekit.pipeline.load_model import LoadedModel
from edgekit.quantize.half.cast import Cast, cast_graph
from edgekit.quantize.half.check import cast_errors, require_small_errors

__all__ = ["checked_half"]

Ranges = Mapping[str, tuple[float, float]]
Feeds = Sequence[dict[str, np.ndarray]]

END_TOLERANCE = 0.5
"""The largest relative error where inputs were made to fit the least or the greatest size: what they show is not what
the model was made for, and it may waver. What overflows, or is computed for another size, is further off."""


def checked_half(
    source: LoadedModel, order: Order, ranges: Ranges, inputs: Feeds, ends: Sequence[Feeds]
) -> tuple[Cast, float]:
    """Types the source's graph in the order's precision, in place, and compares it with what it was on ``inputs``.

    Args:
        source: its graph is changed.
        order: says in which precision, and what stays in float.
        ranges: of the graph's tensors.
        inputs: of the usual sizes.
        ends: inputs of the other sizes in ``source.min_max``.

    Returns:
        What was done, and the largest relative error of any output, given ``inputs``.

    Raises:
        AccuracyError: an output has lost more than the precision may; names the worst.
    """
    exact = [outputs_of(source.graph, feeds) for feeds in (inputs, *ends)]
    cast = cast_graph(source.graph, order.precision, ranges, keep_float=order.keep_float, io=order.half_io)
    threads = cpu().compute_threads
    errors = cast_errors(source.graph, inputs, exact[0], threads=threads)
    require_small_errors(errors, order.precision)
    for specs, feeds, expected in zip(source.min_max.sizes, ends, exact[1:], strict=True):
        at_end = cast_errors(source.graph, feeds, expected, threads=threads)
        require_small_errors(
            at_end, order.precision, tolerance=END_TOLERANCE, given=f" given {'; '.join(map(str, specs))}"
        )
    return cast, max(errors.values(), default=0.0)
