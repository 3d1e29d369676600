"""Writes the output files of commands."""

from __future__ import annotations

from pathlib import Path

from edgekit.errors import UsageError
from edgekit.storage import write_atomic

__all__ = ["write_file"]


def write_file(path: Path, content: bytes) -> None:
    """Writes ``content`` to ``path``; creates missing folders.

    Raises:
        UsageError: the file cannot be written: no permission, no space, a folder of that name.
    """
    try:
        write_atomic(path, content)
    except OSError as e:
        raise UsageError(f"{path}: cannot be written: {e.strerror}", hint="choose another file") from e
