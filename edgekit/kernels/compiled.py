"""Compiled CUDA kernels in the package: made by ``tools/build_kernels``, chosen by GPU and driver.

Each kernel's folder has a folder ``compiled`` with one binary per architecture (xz-compressed cubin), PTX for all other
architectures, and ``compiled.json`` with their list. Neither a compiler nor Triton is needed to use them.
"""

from __future__ import annotations

import hashlib
import lzma
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
from packaging.version import Version

from edgekit.device.cuda.driver import DeviceProperties
from edgekit.errors import BackendUnavailable

__all__ = [
    "FLAGS",
    "FOLDERS",
    "INDEX",
    "NAMES",
    "Binary",
    "Index",
    "choose",
    "image",
    "read_index",
    "source_hash",
    "source_text",
]

FOLDERS = {"preprocess": "preprocess", "decode": "decode", "nms": "suppression", "attention": "sdpa"}
"""The folder of each kernel; not `edgekit.kernels.nms` and `edgekit.kernels.attention`, which are functions."""

NAMES = tuple(FOLDERS)
"""The kernels, in the order in which a frame meets them."""

# A fused multiply-add rounds once where the reference rounds twice.
FLAGS = ("-std=c++17", "-fmad=false")
INDEX = "compiled.json"


class Binary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One compiled file.

    Attributes:
        file: file name; ``.cubin.xz`` runs on its architecture only, ``.ptx.xz`` on it and all later ones.
        architecture: compute capability times ten, such as 87 for Orin.
        minimum_driver: the CUDA version that the driver must support, such as ``12.5``.
        parts: modules in the file, one after the other: name and size in bytes; without them, the file is one module.
        shared_bytes: dynamic shared memory of each kernel that needs any.
    """

    file: str
    architecture: int
    minimum_driver: str
    parts: dict[str, int] = {}
    shared_bytes: dict[str, int] = {}

    @property
    def is_ptx(self) -> bool:
        return self.file.endswith(".ptx.xz")


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of ``compiled.json``.

    Attributes:
        source_sha256: hash of the source and the flags that the binaries were made from; see `source_hash`.
        flags: flags of the compilers.
        compilers: version of each compiler, by name.
        binaries: the compiled files.
    """

    source_sha256: str
    flags: tuple[str, ...]
    compilers: dict[str, str]
    binaries: tuple[Binary, ...]


def source_text(source: Path) -> str:
    """Returns a kernel's source, with the files that it includes in place of its ``#include "..."`` lines."""

    def included(line: re.Match[str]) -> str:
        return source_text(source.parent / line[1])

    return re.sub(r'^#include "(.+)"$', included, source.read_text(encoding="utf-8"), flags=re.MULTILINE)


def source_hash(*sources: Path, flags: Sequence[str] = FLAGS) -> str:
    """Returns the SHA-256 of a kernel's source files and the compilers' flags."""
    texts = [" ".join(flags), *(source_text(source) for source in sources)]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def read_index(name: str) -> Index:
    """Reads the list of the compiled files of a kernel, such as ``nms``."""
    return msgspec.json.decode((_folder(name) / INDEX).read_bytes(), type=Index)


def choose(name: str, device: DeviceProperties) -> Binary:
    """Chooses the binary of a kernel for a GPU: the one of its architecture, or else PTX, which the driver compiles.

    Args:
        name: kernel, such as ``nms``.
        device: the GPU, and the CUDA version that its driver supports.

    Raises:
        BackendUnavailable: there is none for this GPU and driver.
    """
    major, minor = device.compute_capability
    here = 10 * major + minor
    binaries = read_index(name).binaries
    fitting = [
        binary for binary in binaries if (here >= binary.architecture if binary.is_ptx else here == binary.architecture)
    ]
    for binary in sorted(fitting, key=lambda binary: binary.is_ptx):
        if Version(device.driver_version) >= Version(binary.minimum_driver):
            return binary
    if not fitting:
        oldest = min(binary.architecture for binary in binaries)
        raise BackendUnavailable(
            f"expected a GPU of compute capability {oldest / 10} or later for the kernel '{name}', "
            f"got {major}.{minor} ({device.name})"
        )
    needed = min((binary.minimum_driver for binary in fitting), key=Version)
    raise BackendUnavailable(
        f"the kernel '{name}' needs a driver of CUDA {needed} or later on {device.name}, got CUDA "
        f"{device.driver_version}",
        hint="update NVIDIA's driver, or JetPack on a Jetson",
    )


def image(name: str, binary: Binary, part: str = "") -> bytes:
    """Returns a compiled file, or one part of it, uncompressed, for `edgekit.device.cuda.resources.Module`."""
    data = lzma.decompress((_folder(name) / binary.file).read_bytes())
    if not part:
        return data
    names = list(binary.parts)
    start = sum(binary.parts[name] for name in names[: names.index(part)])
    return data[start : start + binary.parts[part]]


def _folder(name: str) -> Path:
    return Path(__file__).parent / FOLDERS[name] / "compiled"
