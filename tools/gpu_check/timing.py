"""Times work on the GPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from edgekit.device.cuda.resources import Context, Event, Graph, Stream

__all__ = ["times_of_graph_ms"]


def times_of_graph_ms(
    context: Context, stream: Stream, work: Callable[[], None], *, warmup: int, repeats: int
) -> list[float]:
    """Captures work in a CUDA graph and returns the time of each of its launches but the first, by CUDA's events.

    Args:
        context: the current context.
        stream: the stream that ``work`` submits to.
        work: submits the work; runs once.
        warmup: number of launches that are not counted.
        repeats: number of launches that are counted.
    """
    with ExitStack() as stack:
        graph = stack.enter_context(Graph(context, stream, work))
        start, end = (stack.enter_context(Event(context, timing=True)) for _ in range(2))
        times_ms = []
        for _ in range(warmup + repeats):
            start.record(stream)
            graph.launch(stream)
            end.record(stream)
            end.synchronize()
            times_ms.append(start.elapsed_ms(end))
    return times_ms[warmup:]
