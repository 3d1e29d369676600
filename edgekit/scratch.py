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

from edgekit.storage import locked_folder, remove_abandoned

__all__ = ["scratch_folder"]

_PREFIX = "edgekit-scratch-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yields a new folder in the system's temporary folder, for this user only, and removes it with its content.

    It is locked, so that other processes can tell it from one whose process was killed.

    Raises:
        OSError: there is no temporary folder that can be written.
    """
    place = Path(tempfile.gettempdir())
    _remove_abandoned(place)
    folder = place / f"{_PREFIX}{secrets.token_hex(8)}"
    with locked_folder(folder, mode=0o700):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _remove_abandoned(place: Path) -> None:
    """Looks once in each process: a system's temporary folder may hold many files."""
    remove_abandoned(place, re.compile(rf"{_PREFIX}[0-9a-f]+"))
