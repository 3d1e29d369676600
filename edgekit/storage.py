"""Files on disk: the cache's place, files written whole or not at all, hashes, free space, and errors of storage."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgekit.errors import BuildError

__all__ = [
    "atomic_file",
    "cache_folder",
    "folder_bytes",
    "free_bytes",
    "is_storage",
    "lacks_room",
    "named_place",
    "require_room",
    "sha256_of",
    "staging_place",
    "storage_error",
    "write_atomic",
]

_CHUNK_BYTES = 1 << 20
# File systems allow 255 bytes; this many characters, of 4 bytes at most, leave room for what is added.
_NAME_LENGTH = 40
_NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than allowed",
}
_NOT_OURS = {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EISDIR: "it is a folder",
    errno.ENAMETOOLONG: "the name is too long",
}
_STAGING = re.compile(r"\.(.+)\.partial-\d+")

_counter = itertools.count()


def cache_folder() -> Path:
    """The user's cache: ``EDGEKIT_CACHE``, else ``edgekit`` under ``XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("EDGEKIT_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser() / "edgekit"


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that replaces it when the context ends well, and is deleted otherwise.

    A crash leaves either the old content or the new. Parent folders are made, a symbolic link is followed, and the
    permissions of a file that is replaced are kept. A pipe or a device is written directly.

    Args:
        path: the file's place.

    Yields:
        The file to write.

    Raises:
        OSError: the file cannot be written; ``filename`` is never that of the file beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        yield path
        return
    target = path.resolve()
    # A folder's permissions alone decide about a rename: without this, a write-protected file would be replaced.
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    partial = target.with_name(f".{target.name[:_NAME_LENGTH]}.part-{os.getpid()}-{next(_counter)}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        if target.exists():
            partial.chmod(target.stat().st_mode & 0o7777)
        partial.replace(target)
    except OSError as e:
        if str(e.filename) == str(partial):
            e.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes | memoryview) -> None:
    """Writes ``content`` to ``path``, whole or not at all; see `atomic_file`.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_file(path) as file, file.open("wb") as stream:
        stream.write(content)


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def free_bytes(place: Path) -> int:
    """Room on the file system that holds ``place``, which need not exist yet."""
    for existing in (place.resolve(), *place.resolve().parents):
        with suppress(OSError):  # it does not exist yet, or its status may not be read
            return shutil.disk_usage(existing).free
    return 0


def folder_bytes(folder: Path) -> int:
    """Length of all files in a folder and below."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def require_room(output: Path, needed_bytes: int) -> None:
    """Raises an error before time is spent on a result that would not fit on the disk.

    Raises:
        BuildError: fewer than ``needed_bytes`` are free where ``output`` is to be.
    """
    if needed_bytes > free_bytes(output):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise storage_error(full, output.resolve(), needed_bytes=needed_bytes)


def lacks_room(error: OSError) -> bool:
    """Whether the error is that the disk, the quota or the limit of a file's length is used up."""
    return error.errno in _NO_ROOM


def is_storage(error: OSError) -> bool:
    """Whether the error is about the place that is written: no room, or no permission to write."""
    return error.errno in _NO_ROOM or error.errno in _NOT_OURS


def storage_error(error: OSError, place: Path, *, needed_bytes: int = 0, written_bytes: int = 0) -> BuildError:
    """The error to raise where a file could not be written below ``place``.

    Args:
        error: of the system.
        place: the output, or its staging folder; the message names the output.
        needed_bytes: length of the whole output, if it is known.
        written_bytes: how much was written before the error; where none is given, what lies in the staging folder.
    """
    number = error.errno or 0
    staging, place = _staging(place), named_place(place)
    half = 0 if staging is None else folder_bytes(staging)  # is deleted, so free again, when the message is read
    file = Path(str(error.filename)) if error.filename else place
    at = "" if file == place else f" ({file.name if _staging(file) else file})"
    why = _NO_ROOM.get(number) or _NOT_OURS.get(number) or error.strerror or str(error)
    need = f"{needed_bytes:,} bytes needed" if needed_bytes else f"more than {written_bytes or half:,} bytes needed"
    free = f"{need}, {free_bytes(place) + half:,} bytes free"
    room = "make room or " if number in _NO_ROOM else ""
    return BuildError(f"cannot write {place}{at}: {why}; {free}", hint=f"{room}choose another place with --output")


def staging_place(output: Path) -> Path:
    """The folder beside ``output`` in which this process makes it."""
    return output.parent / f".{output.name}.partial-{os.getpid()}"


def named_place(folder: Path) -> Path:
    """The output, where ``folder`` is its `staging_place` or lies in it; else the folder itself."""
    staging = _staging(folder)
    return folder if staging is None else staging.parent / _STAGING.sub(r"\1", staging.name)


def _staging(path: Path) -> Path | None:
    return next((folder for folder in (path, *path.parents) if _STAGING.fullmatch(folder.name)), None)
