"""Writes a folder atomically: in a staging folder next to it, which takes its place at the end."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from edgekit.errors import UsageError
from edgekit.progress import Progress, Silent
from edgekit.storage import (
    exchange,
    flush,
    flush_folder,
    folder_bytes,
    is_storage,
    lacks_room,
    locked_folder,
    named_place,
    remove_abandoned,
    remove_folder,
    staging_place,
    storage_error,
)

__all__ = ["interrupted_replacement", "staged_folder"]

_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
TWO_STEPS = (
    "this file system cannot exchange two folders in one step: for a moment while it was replaced, a reader found "
    "nothing at {}"
)


@contextmanager
def staged_folder(output: Path, progress: Progress | None = None) -> Iterator[Path]:
    """Yields a folder next to ``output`` that replaces it if the context exits normally, and is removed otherwise.

    The two folders are exchanged in one step where the system has one, so that ``output`` is complete at any time. The
    new folder is on the disk before. The staging folder is locked while its process runs; one without a lock was left
    by a process that was killed, and is removed by the next call for the same ``output``.

    Args:
        output: path of the folder; parent folders are created.
        progress: receives a note if the folders cannot be exchanged in one step.

    Raises:
        UsageError: another thread of this process is writing the same folder.
        BuildError: the disk is full, read-only, or write access is denied, or the folder cannot be there.
    """
    staging = staging_place(output)
    made: list[Path] = []
    ours = False
    try:
        made = _make_parents(output.parent)
        _recover(output)
        with _claimed(staging):
            ours = True
            yield staging
            flush_folder(staging)
            _replace(output, staging, progress or Silent())
            flush(output.parent)
    except BaseException as e:
        written = folder_bytes(staging)
        if ours:
            shutil.rmtree(staging, ignore_errors=True)
        for parent in reversed(made):
            with suppress(OSError):
                parent.rmdir()
        # An error on another file, such as a model or an image that cannot be read, is not about this folder.
        in_staging = str(getattr(e, "filename", "")).startswith(str(staging))
        if isinstance(e, OSError) and (not ours or lacks_room(e) or (is_storage(e) and in_staging)):
            raise storage_error(e, output, written_bytes=written) from e
        raise


def interrupted_replacement(output: Path) -> Path | None:
    """Returns where ``output`` is while it is replaced in two steps, or since that was interrupted; None: nowhere."""
    return next(output.parent.glob(f"{_escape(_aside_start(output))}*"), None)


def _make_parents(folder: Path) -> list[Path]:
    """Creates the folder and its parents; returns the created ones, outermost first."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()][::-1]
    existing = missing[0].parent if missing else folder
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(existing))
    folder.mkdir(parents=True, exist_ok=True)
    return missing


@contextmanager
def _claimed(staging: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(staging))
        except FileExistsError:
            hint = "wait until it is done"
            raise UsageError(f"{named_place(staging)} is being written by another thread", hint=hint) from None
        yield


def _recover(output: Path) -> None:
    """Cleans up after killed processes: removes incomplete folders, restores an old one that was renamed."""
    for aside in sorted(output.parent.glob(f"{_escape(_aside_start(output))}*")):
        if output.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            with suppress(FileNotFoundError):  # another process has restored it
                aside.rename(output)
    start = staging_place(output).name.rpartition("-")[0]
    remove_abandoned(output.parent, re.compile(rf"{re.escape(start)}-\d+"))


def _aside_start(output: Path) -> str:
    return staging_place(output).name.rpartition(".")[0] + ".replaced-"


def _escape(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _replace(output: Path, staging: Path, progress: Progress) -> None:
    """Puts the staging folder in the place of ``output``; repeated if another process does the same meanwhile."""
    while True:
        try:
            if not output.exists():
                staging.rename(output)
                return
            if exchange(staging, output):
                remove_folder(staging)
                return
            _replace_in_two_steps(output, staging)
        except FileNotFoundError:
            if not staging.is_dir():
                raise
        except OSError as e:
            if e.errno not in _TAKEN:
                raise
        else:
            progress.note(TWO_STEPS.format(output))
            return


def _replace_in_two_steps(output: Path, staging: Path) -> None:
    aside = output.parent / f"{_aside_start(output)}{os.getpid()}-{time.monotonic_ns()}"
    output.rename(aside)
    try:
        staging.rename(output)
    except BaseException:
        if output.exists():  # another process has put its own there
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(output)
        raise
    shutil.rmtree(aside, ignore_errors=True)
