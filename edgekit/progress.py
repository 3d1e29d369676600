"""The protocol by which long stages report their progress; the command line shows it, Python callers can ignore it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["BYTES", "Advance", "Progress", "Silent"]

Advance = Callable[[float], None]

BYTES = "bytes"
"""The unit of stages that count bytes, which are shown in MB."""


class Progress(Protocol):
    """Receives the progress of a stage."""

    def stage(self, title: str, *, total: float | None = None, unit: str = "") -> AbstractContextManager[Advance]:
        """Opens a stage, which ends with the context.

        Args:
            title: what the stage does.
            total: number of units; None if it is unknown.
            unit: what is counted, such as ``images`` or `BYTES`.

        Returns:
            A context manager whose value is a function that advances the stage by a number of units.
        """
        ...

    def note(self, text: str) -> None:
        """Reports something that the user should know; stays on the screen, and ``build`` writes it to the manifest."""
        ...


class Silent:
    """A `Progress` that ignores everything."""

    @contextmanager
    def stage(self, title: str, *, total: float | None = None, unit: str = "") -> Iterator[Advance]:
        yield lambda amount: None

    def note(self, text: str) -> None:
        return None
