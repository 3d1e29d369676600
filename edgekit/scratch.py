"""Temporary folders: one that a killed process left is removed by the next process that needs one."""

from __future__ import annotations

import functools
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.errors import UsageError
from edgekit.storage import lacks_room, locked_folder, remove_abandoned

__all__ = ["scratch_folder", "temporary_folder"]

_PREFIX = "edgekit-scratch-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yields a new folder in the system's temporary folder, for this user only, and removes it with its content.

    It is locked, so that other processes can tell it from one whose process was killed.

    Raises:
        UsageError: there is no temporary folder that can be written.
    """
    place = temporary_folder()
    _remove_abandoned(place)
    folder = place / f"{_PREFIX}{secrets.token_hex(8)}"
    with locked_folder(folder, mode=0o700):
        try:
            yield folder
        except OSError as e:
            if e.filename is None and lacks_room(e):  # as of a write; opening a file names it
                e.filename = str(folder)
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def temporary_folder() -> Path:
    """Returns the system's temporary folder.

    Raises:
        UsageError: none can be written: it does not exist, is full, or belongs to other users.
    """
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as e:
        searched = str(e.strerror).partition(" in ")[2]
        raise UsageError(
            f"expected a folder for temporary files, got none that can be written: {searched}",
            hint="make room in one of them, or set TMPDIR to another folder",
        ) from e


@functools.cache
def _remove_abandoned(place: Path) -> None:
    """Looks once in each process: a system's temporary folder may hold many files."""
    remove_abandoned(place, re.compile(rf"{_PREFIX}[0-9a-f]+"))
