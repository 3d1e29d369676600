"""Writes a folder atomically: in a staging folder next to it, which is renamed at the end."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgekit.errors import UsageError
from edgekit.storage import folder_bytes, is_storage, lacks_room, staging_place, storage_error

__all__ = ["staged_folder"]


@contextmanager
def staged_folder(output: Path) -> Iterator[Path]:
    """Yields a folder next to ``output`` that replaces it if the context exits normally, and is removed otherwise.

    An existing folder ``output`` is renamed first and deleted last, so that one of the two is always complete.
    The staging folder is locked while its process runs; one without a lock was left by a process that was killed,
    and is removed by the next call for the same ``output``.

    Args:
        output: path of the folder; parent folders are created.

    Raises:
        UsageError: another thread of this process is writing the same folder.
        BuildError: the disk is full, read-only, or write access is denied.
    """
    staging = staging_place(output)
    made: list[Path] = []
    ours = False
    try:
        made = _make_parents(output.parent)
        _recover(output)
        _claim(staging)
        ours = True
        with _locked(staging):
            yield staging
            _replace(output, staging)
    except BaseException as e:
        written = folder_bytes(staging)
        if ours:
            shutil.rmtree(staging, ignore_errors=True)
        for parent in reversed(made):
            with suppress(OSError):
                parent.rmdir()
        # An error on another file, such as a model or an image that cannot be read, is not about this folder.
        in_staging = not ours or str(getattr(e, "filename", "")).startswith(str(staging))
        if isinstance(e, OSError) and (lacks_room(e) or (is_storage(e) and in_staging)):
            raise storage_error(e, output, written_bytes=written) from e
        raise


def _make_parents(folder: Path) -> list[Path]:
    """Creates the folder and its parents; returns the created ones, outermost first."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()][::-1]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _claim(folder: Path) -> None:
    try:
        folder.mkdir()
    except FileExistsError:
        raise UsageError(f"{folder.parent} is being written by another thread", hint="wait until it is done") from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # The kernel releases the lock when the process ends, in any way: process ids are reused, locks are not.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # NFS cannot lock folders; there, leftover folders stay
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _abandoned(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def _recover(output: Path) -> None:
    """Cleans up after killed processes: removes incomplete folders, restores an old one that was renamed."""
    for aside in sorted(output.parent.glob(_escape(f".{output.name}.replaced-") + "*")):
        if output.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(output)
    for staging in output.parent.glob(_escape(staging_place(output).name.rpartition("-")[0]) + "-*"):
        if _abandoned(staging):
            shutil.rmtree(staging, ignore_errors=True)


def _escape(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _replace(output: Path, staging: Path) -> None:
    if not output.exists():
        staging.rename(output)
        return
    aside = output.parent / f".{output.name}.replaced-{os.getpid()}-{time.monotonic_ns()}"
    output.rename(aside)
    try:
        staging.rename(output)
    except BaseException:
        aside.rename(output)
        raise
    shutil.rmtree(aside, ignore_errors=True)
