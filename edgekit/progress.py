"""How long stages tell whoever watches where they are; the command line draws it, Python callers may ignore it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["BYTES", "Advance", "Progress", "Silent"]

Advance = Callable[[float], None]

BYTES = "bytes"
"""The unit of stages that count bytes, which are shown in MB."""


class Progress(Protocol):
    """What a stage may say while it works."""

    def stage(self, title: str, *, total: float | None = None, unit: str = "") -> AbstractContextManager[Advance]:
        """A stage that lasts as long as the context; the value is a function that advances it by so many units.

        Args:
            title: what the stage does.
            total: how many units it has, if that is known.
            unit: what is counted, such as ``images`` or `BYTES`.
        """
        ...

    def note(self, text: str) -> None:
        """Something the user should know, kept on the screen, and by ``build`` in the manifest."""
        ...


class Silent:
    """A `Progress` that says nothing."""

    @contextmanager
    def stage(self, title: str, *, total: float | None = None, unit: str = "") -> Iterator[Advance]:
        yield lambda amount: None

    def note(self, text: str) -> None:
        return None
