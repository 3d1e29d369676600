"""Protocols of engines that support asynchronous runs, runs in device memory, or other work beside theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from edgekit.device.cuda.resources import Context, Stream

__all__ = ["Pending", "RunsOnDevice", "SharesProcessors", "StartsRuns"]

T_co = TypeVar("T_co", covariant=True)


class Pending(Protocol[T_co]):
    """A started run; `concurrent.futures.Future` implements this protocol."""

    def done(self) -> bool:
        """Whether the run is done, so that `result` returns immediately."""
        ...

    def result(self) -> T_co:
        """Waits for the result and returns it: of an engine's run, the outputs by name.

        Raises:
            RunError: the run failed, or the session was closed before it began.
        """
        ...


@runtime_checkable
class StartsRuns(Protocol):
    """An engine with asynchronous runs, which need no thread of the host."""

    def run_async(self, feeds: dict[str, np.ndarray]) -> Pending[dict[str, np.ndarray]]:
        """Starts a run; the caller may change the arrays after this method returns."""
        ...


@runtime_checkable
class SharesProcessors(Protocol):
    """An engine whose threads can leave the processor to other work while they wait."""

    def share_processors(self) -> None:
        """Makes the threads of later runs sleep when they wait for each other.

        Waiting threads otherwise keep their processor, for the lowest latency of a run alone.

        Raises:
            RunError: the engine is closed.
        """
        ...


@runtime_checkable
class RunsOnDevice(Protocol):
    """An engine that reads its inputs from device memory and leaves its outputs there.

    Methods are called by one thread at a time, while `context` is current.

    Attributes:
        context: the CUDA context of the engine's memory.
        stream: the stream that the engine computes on.
        graphs_dropped: how often captured runs became invalid; who has captured `enqueue` compares it.
    """

    @property
    def context(self) -> Context: ...

    @property
    def stream(self) -> Stream: ...

    @property
    def graphs_dropped(self) -> int: ...

    def output_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of the outputs for these shapes of the inputs.

        Raises:
            RunError: the engine was not built for these shapes, or a shape depends on the values of the inputs.
        """
        ...

    def enqueue(self, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]) -> None:
        """Submits a run to `stream`; the inputs and outputs are at these device addresses.

        Raises:
            RunError: the engine was not built for these shapes, or it failed.
        """
        ...

    def capture_obstacle(self) -> str:
        """Returns why `enqueue` cannot be captured in a CUDA graph; empty if it may be possible."""
        ...
