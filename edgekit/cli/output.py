"""Files that a command writes because it was asked to."""

from __future__ import annotations

from pathlib import Path

from edgekit.errors import UsageError
from edgekit.storage import write_atomic

__all__ = ["write_file"]


def write_file(path: Path, content: bytes) -> None:
    """Writes ``content`` to ``path``; folders on the way are made.

    Raises:
        UsageError: the system would not let us: no permission, no space, a folder of that name.
    """
    try:
        write_atomic(path, content)
    except OSError as e:
        raise UsageError(f"{path}: cannot be written: {e.strerror}", hint="name another file") from e
