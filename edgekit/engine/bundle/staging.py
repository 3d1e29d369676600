"""Folders that appear whole or not at all: made beside their place, renamed into it."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgekit.errors import BuildError, UsageError

__all__ = ["free_bytes", "is_storage", "named_place", "require_room", "staged_folder", "storage_error"]

_NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than allowed",
}
_STAGING = re.compile(r"\.(.+)\.partial-\d+")
_NOT_OURS = {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.ENOTDIR: "a part of the path is a file",
    errno.ENAMETOOLONG: "the name is too long",
}


@contextmanager
def staged_folder(output: Path) -> Iterator[Path]:
    """A folder beside ``output`` that takes its place when the context ends well, and is removed otherwise.

    What stands at ``output`` is moved aside first and deleted last, so that one of the two is always whole.
    The staging folder is locked as long as its process lives; one without a lock was left by a process that
    was killed, and is removed by the next call for the same ``output``.

    Args:
        output: the folder's place; its parents are made.

    Raises:
        UsageError: another thread of this process is writing the same folder.
        BuildError: the disk is full, read-only, or not ours to write.
    """
    staging = output.parent / f".{output.name}.partial-{os.getpid()}"
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
        written = _size(staging)
        if ours:
            shutil.rmtree(staging, ignore_errors=True)
        for parent in reversed(made):
            with suppress(OSError):
                parent.rmdir()
        # A file elsewhere that may not be read, a model or a picture, is not our place's fault.
        at_place = not ours or str(getattr(e, "filename", "")).startswith(str(staging))
        if isinstance(e, OSError) and (e.errno in _NO_ROOM or (e.errno in _NOT_OURS and at_place)):
            raise storage_error(e, output, written_bytes=written) from e
        raise


def is_storage(error: OSError) -> bool:
    """Whether the error is about the place that was to be written, and not a mistake of ours."""
    return error.errno in _NO_ROOM or error.errno in _NOT_OURS


def storage_error(error: OSError, place: Path, *, needed_bytes: int = 0, written_bytes: int = 0) -> BuildError:
    """What to tell about a file that could not be written below ``place``; of a staging folder, what it is for."""
    number = error.errno or 0
    staging, place = _staging(place), named_place(place)
    half = 0 if staging is None else _size(staging)  # is free again when this is read
    file = Path(str(error.filename)) if error.filename else place
    at = "" if file == place else f" ({file.name if _staging(file) else file})"
    why = _NO_ROOM.get(number) or _NOT_OURS.get(number) or error.strerror or str(error)
    need = f"{needed_bytes:,} bytes needed" if needed_bytes else f"more than {written_bytes or half:,} bytes needed"
    free = f"{need}, {free_bytes(place) + half:,} bytes free"
    room = "make room or " if number in _NO_ROOM else ""
    return BuildError(f"cannot write {place}{at}: {why}; {free}", hint=f"{room}choose another place with --output")


def named_place(folder: Path) -> Path:
    """What the user named, where ``folder`` is the staging folder of it or lies in one."""
    staging = _staging(folder)
    return folder if staging is None else staging.parent / _STAGING.sub(r"\1", staging.name)


def require_room(output: Path, needed_bytes: int) -> None:
    """Says that the disk is too full before time is spent on what would not fit.

    Raises:
        BuildError: fewer than ``needed_bytes`` are free where ``output`` is to be.
    """
    if needed_bytes > free_bytes(output):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise storage_error(full, output.resolve(), needed_bytes=needed_bytes)


def free_bytes(place: Path) -> int:
    """Room on the file system that holds ``place``, which need not be there yet."""
    for existing in (place.resolve(), *place.resolve().parents):
        with suppress(OSError):  # not there yet, or not ours to look at
            return shutil.disk_usage(existing).free
    return 0


def _staging(path: Path) -> Path | None:
    return next((folder for folder in (path, *path.parents) if _STAGING.fullmatch(folder.name)), None)


def _make_parents(folder: Path) -> list[Path]:
    """Makes the folder with its parents; returns those that were not there, outermost first."""
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
    # The kernel drops the lock when the process dies, however it dies: process ids are reused, locks are not.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # NFS has no locks on folders; there, leftovers stay
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
    """Puts right what killed processes have left: half-made folders go, an old one that was moved aside returns."""
    for aside in sorted(output.parent.glob(_escape(f".{output.name}.replaced-") + "*")):
        if output.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(output)
    for staging in output.parent.glob(_escape(f".{output.name}.partial-") + "*"):
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


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total
