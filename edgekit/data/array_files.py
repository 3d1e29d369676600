"""Reads ``.npy`` and ``.npz`` files; their headers are checked before any number is loaded.

The format is described in ``numpy.lib.format``. numpy's own reader makes an array of the size that the header gives,
which may be terabytes, and unpacks archives without a limit.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple, TypeAlias

import numpy as np
from numpy.lib import format as npy

from edgekit.errors import DataError, EdgeKitError
from edgekit.text import one_line

__all__ = ["ARRAY_SUFFIXES", "Arrays", "arrays_from_file"]

ARRAY_SUFFIXES = (".npy", ".npz")
Arrays: TypeAlias = "np.ndarray | dict[str, np.ndarray]"

_MAX_BYTES = 1 << 30
_MAX_ARRAYS = 1000
_ENCRYPTED = 1  # bit of ZipInfo.flag_bits
_ZIP = b"PK"


class _Header(NamedTuple):
    dtype: np.dtype
    shape: tuple[int, ...]
    fortran_order: bool

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def zeros(self) -> np.ndarray:
        """Returns an array of zeros that takes no memory."""
        return np.broadcast_to(np.zeros((), self.dtype), self.shape)


def arrays_from_file(
    path: Path, check: Callable[[Arrays], object] | None = None, *, max_bytes: int = _MAX_BYTES
) -> Arrays:
    """Reads the array of a ``.npy`` file, or those of a ``.npz`` file by name.

    Args:
        path: the file; its content decides the format.
        check: receives arrays of zeros with the types and shapes in the file, which take no memory, before the numbers
            are read; it raises what is to be raised if these do not fit.
        max_bytes: largest total size of the arrays.

    Raises:
        DataError: the file cannot be read, is damaged or encrypted, has Python objects, or has more than ``max_bytes``.
    """
    with _damage_reported(path), path.open("rb") as file:
        packed = file.read(len(_ZIP)) == _ZIP
        size = file.seek(0, 2)
        file.seek(0)
        if packed:
            return _from_archive(file, path, check, max_bytes)
        header = _header(file, size, path)
        _require_budget(header.nbytes, path, max_bytes)
        if check is not None:
            with _own_errors():
                check(header.zeros())
        return _array(file, header, path)


def _from_archive(
    file: IO[bytes], path: Path, check: Callable[[Arrays], object] | None, max_bytes: int
) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        # Inputs of an ONNX file whose names have control characters have escapes instead.
        members = {one_line(info.filename.removesuffix(".npy")): info for info in archive.infolist()}
        if any(info.flag_bits & _ENCRYPTED for info in members.values()):
            raise DataError(f"{path}: expected arrays, got an encrypted archive", hint="save it without a password")
        if len(members) > _MAX_ARRAYS:
            raise DataError(f"{path}: expected at most {_MAX_ARRAYS:,} arrays, got {len(members):,}")
        headers = {}
        for name, info in members.items():
            with archive.open(info) as member:
                headers[name] = _header(member, info.file_size, path)
        _require_budget(sum(header.nbytes for header in headers.values()), path, max_bytes)
        if check is not None:
            with _own_errors():
                check({name: header.zeros() for name, header in headers.items()})
        arrays = {}
        for name, info in members.items():
            with archive.open(info) as member:
                arrays[name] = _array(member, _header(member, info.file_size, path), path)
                if member.read(1):  # the end of the member is where its checksum is compared
                    raise DataError(f"{path}: expected {info.file_size:,} bytes of '{name}', got more")
        return arrays


def _header(file: IO[bytes], size: int, path: Path) -> _Header:
    """Reads the header at the start of a file of ``size`` bytes."""
    version = npy.read_magic(file)
    # Version 3 is version 2 with names of fields in UTF-8, and arrays with fields are no inputs.
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    if dtype.hasobject:
        raise DataError(
            f"{path}: expected arrays of numbers, got Python objects, which are not loaded: they can run code",
            hint="save it as numbers: array.astype('float32')",
        )
    header = _Header(dtype, shape, fortran_order)
    if dtype.itemsize == 0 or any(length < 0 for length in shape):
        raise DataError(f"{path}: expected arrays of numbers, got {dtype} {shape}")
    if header.nbytes > size - file.tell():
        raise DataError(
            f"{path}: expected {header.nbytes:,} bytes, as the header {dtype} {shape} says, got "
            f"{size - file.tell():,}: the file is damaged"
        )
    return header


def _array(file: IO[bytes], header: _Header, path: Path) -> np.ndarray:
    content = np.empty(header.nbytes, np.uint8)
    view, read = content.data, 0
    while read < header.nbytes and (count := file.readinto(view[read:])):  # type: ignore[attr-defined]
        read += count
    if read < header.nbytes:
        raise DataError(f"{path}: expected {header.nbytes:,} bytes, got {read:,}: the file is damaged")
    return content.view(header.dtype).reshape(header.shape, order="F" if header.fortran_order else "C")


def _require_budget(nbytes: int, path: Path, max_bytes: int) -> None:
    if nbytes > max_bytes:
        raise DataError(f"{path}: expected at most {max_bytes:,} bytes of numbers, got {nbytes:,}")


class _OfCheckError(Exception):
    """Carries an error of the caller's check past `_damage_reported`: it does not say that the file is damaged."""

    def __init__(self, error: Exception) -> None:
        self.error = error


@contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except Exception as e:
        raise _OfCheckError(e) from e


@contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    """Converts what a damaged header or archive raises, which may be almost any exception, to one message."""
    try:
        yield
    except _OfCheckError as e:
        raise e.error from e.error.__cause__
    except EdgeKitError:
        raise
    except FileNotFoundError as e:
        raise DataError(f"{path}: expected arrays, got no such file") from e
    except Exception as e:
        reason = (str(e).splitlines() or [type(e).__name__])[0]  # numpy's further lines advise to trust the file
        raise DataError(f"{path}: expected arrays as numpy.save or numpy.savez writes them, got: {reason}") from e
