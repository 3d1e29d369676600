"""Reads a folder that another process may replace meanwhile: all of one version, or again from the start."""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

from edgekit.engine.bundle.staging import interrupted_replacement
from edgekit.errors import EdgeKitError, EngineMismatch
from edgekit.text import shell_quoted

__all__ = ["OpenFolder", "read_whole"]

T = TypeVar("T")

DESCRIPTORS = Path("/proc/self/fd")
"""Linux's folder of open descriptors, through which any library can read what a name meant when it was opened."""
DEADLINE_S = 10.0
MISSING_S = 1.0
"""For how long a folder may be missing while it is replaced in two steps."""
MIN_ATTEMPTS = 3
PAUSE_S = 0.001


class OpenFolder:
    """A folder that stays the same one while it is open, whatever its name comes to mean.

    Attributes:
        path: its name.
        at: the path to read its files by; its name where the system has no such path.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except ValueError as e:  # a zero byte in the name
            raise FileNotFoundError(errno.ENOENT, str(e), str(path)) from e
        through = DESCRIPTORS / str(self._descriptor)
        self.at = through if through.is_dir() else path

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        # A copy would close this folder's descriptor when it is deleted, or one that was opened under its number since.
        raise TypeError("an open folder cannot be copied or pickled: open it again")

    def close(self) -> None:
        """Closes the folder; a second call does nothing."""
        descriptor, self._descriptor = getattr(self, "_descriptor", -1), -1
        if descriptor >= 0:
            os.close(descriptor)

    def is_replaced(self) -> bool:
        """Whether its name means another folder now, or none."""
        try:
            return not os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except OSError:
            return True

    @contextmanager
    def named(self) -> Iterator[None]:
        """Replaces `at` by `path` in the messages of errors."""
        try:
            yield
        except EdgeKitError as e:
            e.message = e.message.replace(str(self.at), str(self.path))
            # A hint has the path as a part of a command: in Python's words, or in a shell's.
            e.hint = e.hint.replace(repr(str(self.at)), repr(str(self.path)))
            e.hint = e.hint.replace(str(self.at), shell_quoted(str(self.path)))
            e.args = (e.message,)
            raise


def read_whole(path: Path, read: Callable[[OpenFolder], T], *, keep_open: bool = False) -> T:
    """Returns what ``read`` makes of the folder ``path``, all read from one version of it.

    Args:
        path: the folder.
        read: reads files through `OpenFolder.at`. It is called again if the folder was replaced meanwhile, and a file
            was missing for that reason or did not fit.
        keep_open: leave the folder open for what ``read`` returned, which closes it.

    Raises:
        EngineMismatch: the folder is replaced faster than it can be read.
        EdgeKitError: any error of ``read``.
        OSError: the folder cannot be opened.
    """
    deadline = time.monotonic() + DEADLINE_S
    missing_until = time.monotonic() + MISSING_S
    attempts = itertools.count()
    while next(attempts) < MIN_ATTEMPTS or time.monotonic() < deadline:
        try:
            folder = OpenFolder(path)
        except FileNotFoundError:
            if time.monotonic() > missing_until:
                raise
            if interrupted_replacement(path) is None and not path.exists():
                raise
            time.sleep(PAUSE_S)
            continue
        whole = False
        try:
            with folder.named():
                found = read(folder)
            whole = folder.at != path or not folder.is_replaced()
            if whole:
                return found
        except (EdgeKitError, OSError):
            if not folder.is_replaced():
                raise
        finally:
            if not (whole and keep_open):
                folder.close()
    raise EngineMismatch(f"{path}: expected an engine to read, got one that is replaced all the time")
