"""Progress reports of long stages: terminals and notebooks show them; in Python, notes are warnings.

What is drawn with rich is in `edgekit.progress.live`, which only callers that show something import.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from edgekit.arguments import argument
from edgekit.errors import EdgeKitWarning, UsageError
from edgekit.text import shown

__all__ = ["BYTES", "Advance", "KeptNotes", "Progress", "Silent", "Warnings", "given_progress", "shown_progress"]

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


class KeptNotes:
    """A `Progress` that forwards stages to another one and keeps notes, each once.

    Args:
        to: receives the stages.
        forward: it receives the notes too, at once.
    """

    def __init__(self, to: Progress, *, forward: bool = False) -> None:
        self.notes: list[str] = []
        self._to, self._forward = to, forward

    def stage(self, title: str, *, total: float | None = None, unit: str = "") -> AbstractContextManager[Advance]:
        return self._to.stage(title, total=total, unit=unit)

    def note(self, text: str) -> None:
        if text in self.notes:
            return
        self.notes.append(text)
        if self._forward:
            self._to.note(text)


class Warnings(Silent):
    """A `Progress` that ignores stages and issues notes as warnings, of the category `EdgeKitWarning`."""

    def note(self, text: str) -> None:
        warnings.warn(text, EdgeKitWarning, stacklevel=_stacklevel_of_caller())


@contextmanager
def shown_progress(given: Progress | bool | None) -> Iterator[Progress]:
    """Yields the `Progress` for the argument ``progress`` of a function that is called from Python.

    Args:
        given: the caller's own; True or None for bars on a terminal and in a notebook; False for none. Without an own
            one, notes are warnings.

    Raises:
        UsageError: it is none of these.
    """
    if given is None or given is True:
        # rich takes longer to import than some functions to run.
        from edgekit.progress.live import progress_of_python

        with progress_of_python() as progress:
            yield progress
    elif given is False:
        yield Warnings()
    elif _is_progress(given):
        yield given
    else:
        raise UsageError(
            f"{argument('progress')}: expected True, False or an object with the methods of edgekit.Progress, got "
            f"{shown(given)}"
        )


def given_progress(given: Progress | None) -> Progress:
    """Returns the `Progress` for the argument ``progress`` of a function that shows none by itself; None: warnings.

    Raises:
        UsageError: it has not the methods of `Progress`.
    """
    if given is None:
        return Warnings()
    if not _is_progress(given):
        raise UsageError(
            f"{argument('progress')}: expected None or an object with the methods of edgekit.Progress, got "
            f"{shown(given)}"
        )
    return given


def _is_progress(given: object) -> bool:
    methods = callable(getattr(given, "stage", None)) and callable(getattr(given, "note", None))
    return methods and not isinstance(given, type)


_PACKAGE = str(Path(__file__).parent.parent)


def _stacklevel_of_caller() -> int:
    """Returns the stack level of the first frame outside of EdgeKit, so that a warning shows the user's line."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    return level
