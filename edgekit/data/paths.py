"""Checks paths read from files; a path that is not a legal file name counts as a missing file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

__all__ = ["first_file", "is_there"]


def is_there(path: Path) -> bool:
    """Whether ``path`` exists; False if it is too long for a file name or contains a zero byte."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def first_file(candidates: Iterable[Path]) -> Path | None:
    """Returns the first candidate that is a file, or None."""
    return next((path for path in candidates if is_there(path) and path.is_file()), None)
