"""Hints on files that are not there: names beside them, and the names that stand for a file of the user's own."""

from __future__ import annotations

import os
from pathlib import Path

from edgekit.errors import nearest

__all__ = ["ARRAYS_PLACEHOLDER", "ARRAY_PLACEHOLDER", "PHOTO_PLACEHOLDER", "TEXTS_PLACEHOLDER", "hint_on_missing"]

PHOTO_PLACEHOLDER = "PHOTO.jpg"
ARRAY_PLACEHOLDER = "INPUT.npy"
ARRAYS_PLACEHOLDER = "INPUTS.npz"
TEXTS_PLACEHOLDER = "TEXTS.txt"

# The help's examples write them in small letters.
_STANDS_FOR = {
    PHOTO_PLACEHOLDER.lower(): "a picture",
    ARRAY_PLACEHOLDER.lower(): "a file with the model's input",
    ARRAYS_PLACEHOLDER.lower(): "a file with the model's inputs",
    TEXTS_PLACEHOLDER.lower(): "a file of texts",
}


def hint_on_missing(path: str | Path) -> str:
    """Returns a hint on a path that does not exist.

    It has similar names in the folder, or says where a link leads, or what a placeholder stands for.
    """
    if os.path.islink(path):
        return f"it is a link to {os.readlink(path)}, which does not exist"
    close = nearest(str(path), _names_beside(Path(path)), listed=False)
    if what := _STANDS_FOR.get(str(path).lower()):
        return f"{path} stands for {what} of yours: write its path instead" + (f"; {close}" if close else "")
    return close


def _names_beside(path: Path) -> list[str]:
    try:
        return [str(path.parent / name) for name in os.listdir(path.parent) if not name.startswith(".")]
    except (OSError, ValueError):  # no such folder, no access, or no valid name
        return []
