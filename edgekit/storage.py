"""Files on disk: cache folder, atomic writes, hashes, free space, and errors of storage."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgekit.arguments import argument
from edgekit.errors import BuildError

__all__ = [
    "atomic_file",
    "cache_folder",
    "first_file",
    "folder_bytes",
    "free_bytes",
    "is_storage",
    "is_there",
    "lacks_room",
    "named_place",
    "require_room",
    "sha256_of",
    "staging_place",
    "storage_error",
    "write_atomic",
]

_CHUNK_BYTES = 1 << 20
# File systems allow 255 bytes; this many characters, of 4 bytes at most, leave room for the suffix.
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
    """Returns the user's cache: ``EDGEKIT_CACHE``, else ``edgekit`` under ``XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("EDGEKIT_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser() / "edgekit"


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary file that replaces ``path`` if the context succeeds, and is deleted otherwise.

    A crash leaves either the old content or the new. Parent folders are created, a symbolic link is followed, and the
    permissions of an existing file are kept. A pipe or a device is written directly.

    Args:
        path: the file to write.

    Yields:
        The temporary file to write to.

    Raises:
        OSError: the file cannot be written; ``filename`` is never the temporary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        yield path
        return
    target = path.resolve()
    # A rename needs permissions of the folder only: without this check, a write-protected file would be replaced.
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
    """Writes ``content`` to ``path`` atomically; see `atomic_file`.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_file(path) as file, file.open("wb") as stream:
        stream.write(content)


def sha256_of(file: Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def free_bytes(place: Path) -> int:
    """Returns the free space of the file system of ``place``, which need not exist yet."""
    for existing in (place.resolve(), *place.resolve().parents):
        with suppress(OSError):  # it does not exist yet, or its status may not be read
            return shutil.disk_usage(existing).free
    return 0


def folder_bytes(folder: Path) -> int:
    """Returns the total size of all files in a folder and its subfolders."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def require_room(output: Path, needed_bytes: int) -> None:
    """Checks that the disk has room for an output before time is spent on it.

    Raises:
        BuildError: fewer than ``needed_bytes`` are free on the disk of ``output``.
    """
    if needed_bytes > free_bytes(output):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise storage_error(full, output.resolve(), needed_bytes=needed_bytes)


def lacks_room(error: OSError) -> bool:
    """Whether an error means that the disk is full, or that the quota or the file size limit is reached."""
    return error.errno in _NO_ROOM


def is_storage(error: OSError) -> bool:
    """Whether an error is about the file's location: no room, or no permission to write."""
    return error.errno in _NO_ROOM or error.errno in _NOT_OURS


def storage_error(error: OSError, place: Path, *, needed_bytes: int = 0, written_bytes: int = 0) -> BuildError:
    """Returns the error to raise if a file in ``place`` could not be written.

    Args:
        error: the system's error.
        place: the output, or its staging folder; the message names the output.
        needed_bytes: size of the whole output, if it is known.
        written_bytes: bytes written before the error; default: the size of the staging folder.
    """
    number = error.errno or 0
    staging, place = _staging(place), named_place(place)
    staged = 0 if staging is None else folder_bytes(staging)  # deleted, so free again, when the message is read
    file = Path(str(error.filename)) if error.filename else place
    at = "" if file == place else f" ({file.name if _staging(file) else file})"
    why = _NO_ROOM.get(number) or _NOT_OURS.get(number) or error.strerror or str(error)
    need = f"{needed_bytes:,} bytes needed" if needed_bytes else f"more than {written_bytes or staged:,} bytes needed"
    free = f"{need}, {free_bytes(place) + staged:,} bytes free"
    room = "make room or " if number in _NO_ROOM else ""
    return BuildError(
        f"cannot write {place}{at}: {why}; {free}", hint=f"{room}choose another place with {argument('output')}"
    )


def staging_place(output: Path) -> Path:
    """Returns this process's staging folder for ``output``, in the same parent folder."""
    return output.parent / f".{output.name}.partial-{os.getpid()}"


def named_place(folder: Path) -> Path:
    """Returns the output of a staging folder or of a folder in it; returns any other folder itself."""
    staging = _staging(folder)
    return folder if staging is None else staging.parent / _STAGING.sub(r"\1", staging.name)


def _staging(path: Path) -> Path | None:
    return next((folder for folder in (path, *path.parents) if _STAGING.fullmatch(folder.name)), None)


def is_there(path: Path) -> bool:
    """Whether ``path`` exists; False if it is too long for a file name or contains a zero byte."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def first_file(candidates: Iterable[Path]) -> Path | None:
    """Returns the first candidate that is a file, or None."""
    return next((path for path in candidates if is_there(path) and path.is_file()), None)
