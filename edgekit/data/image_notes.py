"""Notes on images that are not read as their file could be read; each kind is said once, not once for each file."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgekit.errors import EdgeKitWarning

__all__ = ["image_notes", "note_on_image"]


def _warn(text: str) -> None:
    warnings.warn(text, EdgeKitWarning, stacklevel=4)


class _Notes:
    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._said: set[str] = set()
        self._lock = threading.Lock()  # several threads read images

    def add(self, kind: str, text: str) -> None:
        with self._lock:
            if kind in self._said:
                return
            self._said.add(kind)
        self._say(text)


_notes = _Notes(_warn)


@contextmanager
def image_notes(say: Callable[[str], object] = _warn) -> Iterator[None]:
    """Gives the notes inside the block to ``say``, each kind once, in all threads of the process.

    Without it, they are warnings of the category `EdgeKitWarning`, each kind once in a process.
    """
    global _notes
    before, _notes = _notes, _Notes(say)
    try:
        yield
    finally:
        _notes = before


def note_on_image(kind: str, text: str) -> None:
    """Says a note unless one of its kind was said before.

    Args:
        kind: what the note is about, the same for all files that it is true of.
        text: the note, which names the first of these files.
    """
    _notes.add(kind, text)
