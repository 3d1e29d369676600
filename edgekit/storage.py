"""Files on disk: cache folder, locks, atomic writes, hashes, free space, and errors of storage."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import hashlib
import itertools
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgekit.arguments import argument
from edgekit.errors import BuildError

__all__ = [
    "atomic_file",
    "cache_folder",
    "descriptor_of",
    "exchange",
    "first_file",
    "flush",
    "flush_folder",
    "folder_bytes",
    "free_bytes",
    "is_storage",
    "is_there",
    "lacks_room",
    "locked_folder",
    "named_place",
    "path_for_library",
    "read_cached",
    "remove_abandoned",
    "remove_folder",
    "require_room",
    "resolved",
    "sha256_of",
    "staging_place",
    "storage_error",
    "why_no_room",
    "write_atomic",
    "write_cached",
]

LONGEST_REMOVAL_S = 5.0
"""How long to wait for another process that removes a folder. A lock that is held longer is not for its removal."""
_CHUNK_BYTES = 1 << 20
# File systems allow 255 bytes; a longer name is cut, which leaves room for the suffix.
_NAME_BYTES = 180
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
_STAGING = re.compile(r"\.(.+)\.partial-\d+", re.DOTALL)
_TEMPORARY = re.compile(r"\..+\.edgekit-part-\d+-\d+", re.DOTALL)
_AT_FDCWD = -100  # fcntl.h
_RENAME_EXCHANGE = 2  # linux/fs.h
_CANNOT_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)

_STANDARD_STREAMS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}

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
    permissions of an existing file are kept. A pipe or a device is written directly. Temporary files that killed
    processes left in the folder are removed.

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
    target = resolved(path)
    # A rename needs permissions of the folder only: without this check, a write-protected file would be replaced.
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    remove_abandoned(target.parent, _TEMPORARY)
    partial = target.with_name(f".{_short(target.name)}.edgekit-part-{os.getpid()}-{next(_counter)}")
    try:
        with _created(partial, _create_file):
            yield partial
            flush(partial)
            if target.exists():
                partial.chmod(target.stat().st_mode & 0o7777)
            partial.replace(target)
            flush(target.parent)
    except OSError as e:
        if e.filename is None or str(e.filename) == str(partial):  # a write names no file
            e.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes | memoryview) -> None:
    """Writes ``content`` to ``path`` atomically; see `atomic_file`.

    A stream that the process was started with, such as ``/dev/stdout``, is written at its position: a file behind it
    keeps what it has.

    Raises:
        OSError: the file cannot be written.
    """
    stream_number = descriptor_of(path)
    if stream_number is not None:
        with open(stream_number, "wb", closefd=False) as stream:
            stream.write(content)
        return
    with atomic_file(path) as file, file.open("wb") as stream:
        stream.write(content)


def descriptor_of(path: Path) -> int | None:
    """Returns the number of the open stream that a path such as ``/dev/stdout`` or ``/dev/fd/3`` names, or None."""
    text = str(path)
    if text in _STANDARD_STREAMS:
        return _STANDARD_STREAMS[text]
    number = re.fullmatch(r"(?:/dev|/proc/self)/fd/(\d{1,9})", text)
    return None if number is None else int(number[1])


@contextmanager
def locked_folder(folder: Path, *, mode: int = 0o777) -> Iterator[None]:
    """Creates a folder, and locks it until the context exits or the process ends; ``mode`` is for `os.mkdir`.

    Raises:
        FileExistsError: the folder exists.
        OSError: it cannot be created.
    """
    with _created(folder, functools.partial(Path.mkdir, mode=mode)):
        yield


@contextmanager
def _created(path: Path, create: Callable[[Path], None]) -> Iterator[None]:
    # Another process may take a file for abandoned until it is locked, and remove it: then it is created again. A lock
    # on the folder around both steps would wait forever for `flock FOLDER edgekit ...`.
    while True:
        create(path)
        descriptor = _open_for_lock(path)
        if descriptor is None:
            continue
        with suppress(OSError):  # NFS cannot lock folders; there, what killed processes left stays
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_at(descriptor, path):
            break
        os.close(descriptor)
    try:
        yield
    finally:
        os.close(descriptor)  # the kernel releases the lock


def _create_file(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


def _open_for_lock(path: Path) -> int | None:
    """Opens a file or a folder; None if it was removed. NFS locks files only if they are open for writing."""
    try:
        return os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except FileNotFoundError:
        return None


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def remove_abandoned(folder: Path, names: re.Pattern[str]) -> None:
    """Removes the files and folders that killed processes left: those whose name matches and that are not locked.

    A lock, unlike a process id in a name, cannot outlive its process or be taken for that of another one.
    """
    for path in [Path(entry.path) for entry in os.scandir(folder) if names.fullmatch(entry.name)]:
        with suppress(OSError):  # it is not ours, or another process has just removed it
            descriptor = _open_for_lock(path)
            if descriptor is None:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _is_at(descriptor, path):  # removed before the lock; its process may use the name again
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
            finally:
                os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """Removes a folder that another process may take for abandoned and be removing: waits for that one.

    Without waiting, this process could create a folder of the same name while the other still removes by that name.
    """
    descriptor = _open_for_lock(folder)
    if descriptor is None:
        return
    try:
        deadline = time.monotonic() + LONGEST_REMOVAL_S
        while not _locks(descriptor) and time.monotonic() < deadline:
            time.sleep(0.001)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def exchange(one: Path, other: Path) -> bool:
    """Exchanges two files or folders in one step, so that both names exist at any time.

    Returns:
        False if the system or the file system has no such step: it is Linux's ``renameat2``, which NFS lacks.

    Raises:
        OSError: one of the two does not exist, or may not be renamed.
    """
    rename = _renameat2()
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


@functools.cache
def _renameat2() -> Any:
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return function


def flush_folder(folder: Path) -> None:
    """Waits until the disk has a folder with everything in it.

    Raises:
        OSError: the disk is full or fails.
    """
    for path in (*folder.rglob("*"), folder):
        if not path.is_symlink():
            flush(path)


def flush(path: Path) -> None:
    """Waits until the disk has a file, or the names in a folder.

    Raises:
        OSError: the disk is full or fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as e:
        if e.errno != errno.EINVAL:  # some file systems cannot flush folders
            raise
    finally:
        os.close(descriptor)


def write_cached(path: Path, content: bytes) -> None:
    """Writes a file of the cache, with its hash in the first line, by which `read_cached` finds damage.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomic(path, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def read_cached(path: Path) -> bytes | None:
    """Returns what `write_cached` wrote to a file of the cache; None if there is none, or if it was damaged."""
    try:
        digest, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest().encode() == digest else None


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
    for place, _, names in os.walk(folder):  # skips what is removed meanwhile
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
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


def why_no_room(error: OSError) -> str:
    """Returns in words why there is no room to write: ``the disk is full``; empty for another error."""
    return _NO_ROOM.get(error.errno or 0, "")


def is_storage(error: OSError) -> bool:
    """Whether an error is about the file's location: no room, or no permission to write."""
    return error.errno in _NO_ROOM or error.errno in _NOT_OURS


def resolved(path: str | Path) -> Path:
    """Returns an absolute path without links.

    Raises:
        OSError: links lead to each other, or the path is relative and the working directory was deleted.
    """
    try:
        return Path(path).resolve()
    except RuntimeError as e:  # of pathlib, before Python 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from e
    except FileNotFoundError as e:
        raise FileNotFoundError(errno.ENOENT, "the working directory was deleted", str(path)) from e


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
    need = (
        f"{needed_bytes:,} bytes needed, " if needed_bytes else f"more than {written_bytes or staged:,} bytes needed, "
    )
    is_begun = needed_bytes or written_bytes or staged
    free = f"; {need if is_begun else ''}{free_bytes(place) + staged:,} bytes free"
    free = free if is_begun or number in _NO_ROOM else ""
    room = "make room or " if number in _NO_ROOM else ""
    return BuildError(
        f"cannot write {place}{at}: {why}{free}", hint=f"{room}choose another place with {argument('output')}"
    )


def staging_place(output: Path) -> Path:
    """Returns this process's staging folder for ``output``, in the same parent folder."""
    return output.parent / f".{_short(output.name)}.partial-{os.getpid()}"


def _short(name: str) -> str:
    """Returns a name that has room for a prefix and a suffix; a long one is cut, and gets a hash."""
    encoded = os.fsencode(name)
    if len(encoded) <= _NAME_BYTES:
        return name
    # Cut between characters, as some file systems only take valid UTF-8.
    cut = next(name[:end] for end in range(len(name), 0, -1) if len(os.fsencode(name[:end])) <= _NAME_BYTES)
    return f"{cut}~{hashlib.sha256(encoded).hexdigest()[:12]}"


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


@contextmanager
def path_for_library(path: Path) -> Iterator[str]:
    """Yields a path for libraries that take only UTF-8; a folder or file of another name is named by its descriptor.

    Of a file named so, a library does not find the files beside it.
    """
    if _is_utf8(str(path)):
        yield str(path)
        return
    named = _is_utf8(path.name)
    flags = os.O_RDONLY | os.O_DIRECTORY if named else os.O_RDONLY
    descriptor = os.open(path.parent if named else path, flags)
    try:
        yield f"/proc/self/fd/{descriptor}" + (f"/{path.name}" if named else "")
    finally:
        os.close(descriptor)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def first_file(candidates: Iterable[Path]) -> Path | None:
    """Returns the first candidate that is a file, or None."""
    return next((path for path in candidates if is_there(path) and path.is_file()), None)
