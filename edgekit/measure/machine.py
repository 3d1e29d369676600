"""Describes the machine in a report, so that a reader can tell whether two reports are comparable."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgekit.device.cpu import cpu
from edgekit.device.jetson import jetson
from edgekit.measure.latency import Disturbance

__all__ = ["Machine", "ProcessorTime", "disturbance_by_others", "processor_time", "resident_bytes", "this_machine"]

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


STAT = Path("/proc/stat")
SHARE_LIMIT = 0.20
BUSY_LIMIT = 4.0
STOLEN_LIMIT = 0.02


class ProcessorTime(NamedTuple):
    """CPU time counters, in seconds since an arbitrary point in time.

    Attributes:
        wall_s: wall-clock time.
        all_s: CPU time of all processes on this machine, including this one.
        stolen_s: CPU time that other virtual machines took.
        own_s: CPU time of all threads of this process.
        processors: number of logical CPUs.
    """

    wall_s: float
    all_s: float
    stolen_s: float
    own_s: float
    processors: int


def processor_time(stat: Path = STAT) -> ProcessorTime | None:
    """Returns the current counters; None if the system has none.

    Args:
        stat: Linux's ``/proc/stat``; see proc_stat(5).
    """
    try:
        lines = stat.read_text().splitlines()
        user, nice, system, _, _, irq, softirq, stolen = map(int, lines[0].split()[1:9])
    except (OSError, ValueError, IndexError):
        return None
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    return ProcessorTime(
        wall_s=time.perf_counter(),
        all_s=(user + nice + system + irq + softirq) * tick_s,
        stolen_s=stolen * tick_s,
        own_s=time.process_time(),
        processors=sum(line.startswith("cpu") for line in lines) - 1,
    )


def disturbance_by_others(before: ProcessorTime | None, after: ProcessorTime | None) -> Disturbance | None:
    """Detects load from other processes: over 20 % of all CPU time, over four processors, or over 2 % stolen time.

    A constant load slows all runs down equally, so the statistics of the runs cannot show it.
    """
    if before is None or after is None:
        return None
    capacity_s = (after.wall_s - before.wall_s) * after.processors
    # The counters have a resolution of 10 ms, too coarse for shorter intervals.
    if after.wall_s - before.wall_s < 0.2 or capacity_s <= 0:
        return None
    stolen = (after.stolen_s - before.stolen_s) / capacity_s
    if stolen > STOLEN_LIMIT:
        text = f"Other virtual machines took {100 * stolen:.0f} % of the CPU time (steal time)."
        return Disturbance(kind="others", text=text)
    others = ((after.all_s - before.all_s) - (after.own_s - before.own_s)) / capacity_s
    busy = others * after.processors
    if others <= SHARE_LIMIT and busy <= BUSY_LIMIT:
        return None
    text = f"Other processes kept {busy:.1f} of {after.processors} processors busy during the measurement."
    return Disturbance(kind="others", text=text)
