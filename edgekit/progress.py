"""How long stages tell whoever watches where they are; the command line draws it, Python callers may ignore it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["Progress", "Silent"]

Advance = Callable[[float], None]


class Progress(Protocol):
    """What a stage may say while it works."""

    def stage(self, title: str, *, total: float | None = None, unit: str = "") -> AbstractContextManager[Advance]:
        """A stage that lasts as long as the context; the value is a function that advances it by so many units."""
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
