"""Paths that stand in files: a name that no file can have is that of a file that is not there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

__all__ = ["first_file", "is_there"]


def is_there(path: Path) -> bool:
    """Whether there is a file or a folder; False for what is too long for a name, or holds a zero byte."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def first_file(candidates: Iterable[Path]) -> Path | None:
    """The first that is a file; None if none is."""
    return next((path for path in candidates if is_there(path) and path.is_file()), None)
