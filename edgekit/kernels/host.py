"""Compiled CPU kernels in the package: made by ``tools/build_host_kernels``, chosen by the machine.

A kernel's folder has a folder ``host`` with one shared library per architecture, which needs no other library, and
``host.json`` with their list. They only run on Linux; elsewhere, callers use their numpy version.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
import sys
from pathlib import Path

import msgspec

from edgekit.kernels.compiled import FOLDERS

__all__ = ["FLAGS", "INDEX", "HostIndex", "library", "read_index", "source_hash"]

# A fused multiply-add rounds once where the reference rounds twice.
FLAGS = ("-O2", "-ffp-contract=off", "-ffreestanding", "-nostdlib", "-fPIC", "-shared", "-s")
INDEX = "host.json"


class HostIndex(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of ``host.json``.

    Attributes:
        source_sha256: hash of the source and the flags that the libraries were made from; see `source_hash`.
        flags: flags of the compiler.
        compiler: name and version of the compiler.
        libraries: file name by machine, such as ``aarch64``.
    """

    source_sha256: str
    flags: tuple[str, ...]
    compiler: str
    libraries: dict[str, str]


def source_hash(source: Path) -> str:
    """Returns the SHA-256 of a kernel's source and the compiler's flags."""
    return hashlib.sha256(" ".join(FLAGS).encode() + b"\0" + source.read_bytes()).hexdigest()


def read_index(name: str) -> HostIndex:
    """Reads the list of the libraries of a kernel, such as ``nms``."""
    return msgspec.json.decode((_folder(name) / INDEX).read_bytes(), type=HostIndex)


@functools.cache
def library(name: str) -> ctypes.CDLL | None:
    """Loads the library of a kernel for this machine.

    Args:
        name: kernel, such as ``nms``.

    Returns:
        The library; None if there is none for this system, or if the system refuses to load it, for example from a
        file system that is mounted ``noexec`` or from a zip file.
    """
    if sys.platform != "linux" or sys.byteorder != "little" or sys.maxsize < 1 << 32:
        return None
    file = read_index(name).libraries.get(platform.machine())
    if file is None:
        return None
    try:
        return ctypes.CDLL(str(_folder(name) / file))
    except OSError:
        return None


def _folder(name: str) -> Path:
    return Path(__file__).parent / FOLDERS[name] / "host"
