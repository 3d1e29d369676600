"""Runs that were started and not waited for: what they look like, and which engines have them of their own."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

__all__ = ["Pending", "StartsRuns"]


class Pending(Protocol):
    """A run that was started; `concurrent.futures.Future` is one."""

    def done(self) -> bool:
        """Whether `result` would return at once."""
        ...

    def result(self) -> dict[str, np.ndarray]:
        """Outputs by name; waits for them.

        Raises:
            RunError: the run failed, or the session was closed before it began.
        """
        ...


@runtime_checkable
class StartsRuns(Protocol):
    """An engine that copies and computes by itself, so that no thread has to wait for it."""

    def run_async(self, feeds: dict[str, np.ndarray]) -> Pending:
        """Starts a run; the arrays may be changed when it returns."""
        ...
