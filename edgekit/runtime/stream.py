"""Protocols of asynchronous runs, and of engines that support them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

__all__ = ["Pending", "StartsRuns"]


class Pending(Protocol):
    """A started run; `concurrent.futures.Future` implements this protocol."""

    def done(self) -> bool:
        """Whether the run is done, so that `result` returns immediately."""
        ...

    def result(self) -> dict[str, np.ndarray]:
        """Waits for the outputs and returns them by name.

        Raises:
            RunError: the run failed, or the session was closed before it began.
        """
        ...


@runtime_checkable
class StartsRuns(Protocol):
    """An engine with asynchronous runs, which need no thread of the host."""

    def run_async(self, feeds: dict[str, np.ndarray]) -> Pending:
        """Starts a run; the caller may change the arrays after this method returns."""
        ...
