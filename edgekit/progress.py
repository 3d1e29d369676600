"""Progress reports of long stages: the command line shows them, Python callers can ignore them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["BYTES", "Advance", "Progress", "Silent"]

Advance = Callable[[float], None]

BYTES = "bytes"
"""The unit of stages that count bytes; progress is shown in MB."""


class Progress(Protocol):
    """Receives the progress of a stage."""

    def stage(self, title: str, *, total: float | None = None, unit: str = "") -> AbstractContextManager[Advance]:
        """Starts a stage, which ends with the context.

        Args:
            title: what the stage does.
            total: number of units; None if it is unknown.
            unit: what is counted, such as ``images`` or `BYTES`.

        Returns:
            A context manager that yields a function, which advances the stage by a number of units.
        """
        ...

    def note(self, text: str) -> None:
        """Reports a message that stays on the screen; ``build`` also writes it to the manifest."""
        ...


class Silent:
    """A `Progress` that ignores everything."""

    @contextmanager
    def stage(self, title: str, *, total: float | None = None, unit: str = "") -> Iterator[Advance]:
        yield lambda amount: None

    def note(self, text: str) -> None:
        return None
