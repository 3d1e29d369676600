"""Describes the machine in a report, so that a reader can tell whether two reports are comparable."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import msgspec

from edgekit.device.cpu import cpu
from edgekit.device.jetson import jetson

__all__ = ["Machine", "resident_bytes", "this_machine"]

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
STATM = Path("/proc/self/statm")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The machine that a measurement ran on.

    Attributes:
        cpu: name of the CPU.
        arch: ``x86_64`` or ``aarch64``.
        features: CPU instruction sets that INT8 kernels use.
        cores: physical cores of the machine.
        threads: logical CPUs that the process may use.
        memory_bytes: memory of the machine, or of the process's control group.
        governor: frequency governor of the CPU; empty if it cannot be read.
        load: load average of the last minute, this process included.
        board: a Jetson's name, JetPack and power mode; empty on other machines.
        system: operating system and its version.
        python: version of Python.
        numpy: version of numpy.
    """

    cpu: str
    arch: str
    features: tuple[str, ...]
    cores: int
    threads: int
    memory_bytes: int
    governor: str
    load: float | None
    board: str
    system: str
    python: str
    numpy: str


def this_machine() -> Machine:
    """Returns the description of the machine that this process runs on."""
    processor = cpu()
    return Machine(
        cpu=processor.name,
        arch=processor.arch,
        features=processor.features,
        cores=processor.cores,
        threads=processor.threads,
        memory_bytes=processor.memory_bytes,
        governor=_governor(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        board=_board(),
        system=system_name(),
        python=platform.python_version(),
        numpy=metadata.version("numpy"),
    )


def resident_bytes() -> int | None:
    """Returns the resident set size of this process in bytes; None if the system does not report it."""
    try:
        pages = int(STATM.read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def system_name() -> str:
    """Returns the name of the operating system, such as ``Debian GNU/Linux 12 (bookworm), Linux 6.1.0``."""
    kernel = f"{platform.system()} {platform.release()}"
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {kernel}"
    except (OSError, KeyError):
        return kernel


def _governor() -> str:
    try:
        return GOVERNOR.read_text().strip()
    except OSError:
        return ""


def _board() -> str:
    board = jetson()
    if board is None:
        return ""
    words = [board.board, f"JetPack {board.jetpack}" if board.jetpack else f"L4T {board.l4t}", board.power_mode]
    return ", ".join(word for word in words if word)
