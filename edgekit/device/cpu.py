"""Detects the CPU and its memory: name, 8-bit integer instructions, and the share that this process may use."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import re
import sys
from pathlib import Path

import msgspec

__all__ = ["Cpu", "clock_mhz", "cpu", "last_cache_bytes", "peak_memory_bytes", "return_freed_memory"]

ROOT = Path("/")

# The kernel's name of a feature -> EdgeKit's; only features that affect the speed or exactness of 8-bit kernels.
X86_FEATURES = {name: name for name in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")}
ARM_FEATURES = {"asimd": "neon", "asimddp": "asimddp", "i8mm": "i8mm", "sve": "sve"}

DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})

# Arm's and NVIDIA's part numbers, as in Linux's arch/arm64/include/asm/cputype.h: aarch64's cpuinfo has no names.
ARM_PARTS = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd04"): "Cortex-A35",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd09"): "Cortex-A73",
    ("0x41", "0xd0a"): "Cortex-A75",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd0d"): "Cortex-A77",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd41"): "Cortex-A78",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd44"): "Cortex-X1",
    ("0x41", "0xd46"): "Cortex-A510",
    ("0x41", "0xd47"): "Cortex-A710",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x41", "0xd83"): "Neoverse-V3AE",
    ("0x4e", "0x003"): "Denver 2",
    ("0x4e", "0x004"): "Carmel",
}


class Cpu(msgspec.Struct, frozen=True, kw_only=True):
    """A CPU, with the limits of this process.

    Attributes:
        name: name of the CPU, such as ``AMD EPYC 7763`` or ``Cortex-A78AE``.
        arch: ``x86_64`` or ``aarch64``; for others, the system's name.
        cores: physical cores of the machine.
        threads: logical processors that this process may use, limited by its affinity and its cgroup's quota.
        features: instruction sets that matter to INT8, from `X86_FEATURES` and `ARM_FEATURES`.
        memory_bytes: memory of the machine or of the cgroup, whichever is less; 0 if unknown.
        available_bytes: memory that is available without swapping; 0 if unknown.
    """

    name: str
    arch: str
    cores: int
    threads: int
    features: tuple[str, ...]
    memory_bytes: int
    available_bytes: int

    @property
    def fast_int8(self) -> bool:
        """Whether the CPU has an exact 8-bit dot product instruction (VNNI, AMX, Arm's dot product)."""
        return not DOT_PRODUCTS.isdisjoint(self.features)

    @property
    def compute_threads(self) -> int:
        """Number of threads for matrix products: those that this process may use, at most one per physical core."""
        return max(1, min(self.threads, self.cores))


def cpu(root: Path = ROOT) -> Cpu:
    """Returns the CPU that this process runs on.

    Args:
        root: where ``proc`` and ``sys`` are found.
    """
    text = _read(root / "proc/cpuinfo")
    blocks = [_fields(block) for block in re.split(r"\n\s*\n", text) if "processor" in block]
    arch = _arch(text)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory, available = _memory(root)
    return Cpu(
        name=_name(blocks, arch),
        arch=arch,
        cores=_cores(blocks),
        threads=max(1, min(usable, math.ceil(_quota(root)) if _quota(root) else usable)),
        features=_features(blocks, arch),
        memory_bytes=memory,
        available_bytes=available,
    )


def peak_memory_bytes() -> int:
    """Returns the peak memory of this process since it started; 0 if unknown.

    Reads ``VmHWM`` on Linux, because a new process inherits its parent's peak in ``ru_maxrss``.
    """
    peak = re.search(r"^VmHWM:\s+(\d+) kB", _read(ROOT / "proc/self/status"), re.MULTILINE)
    if peak:
        return int(peak[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def clock_mhz(root: Path = ROOT) -> float | None:
    """Returns the highest clock that the system reports, in MHz; None if it reports none.

    Virtual machines report the base clock, and a turbo clock may be higher.

    Args:
        root: where ``proc`` and ``sys`` are found.
    """
    highest = _read(root / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").strip()  # kHz
    if highest.isdigit():
        return int(highest) / 1000
    clocks = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", _read(root / "proc/cpuinfo"), re.MULTILINE)
    return max(map(float, clocks), default=None)


def last_cache_bytes(root: Path = ROOT) -> int:
    """Returns the size of the CPU's largest cache in bytes; 0 if the system does not report it.

    Args:
        root: where ``sys`` is found.
    """
    sizes = (_read(file).strip() for file in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    units = {"K": 2**10, "M": 2**20}
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if re.fullmatch(r"\d+[KM]", size)), default=0)


def _read(path: Path) -> str:
    """Returns the text of a file, or an empty string if the system does not have it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _fields(block: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def _arch(cpuinfo: str) -> str:
    if re.search(r"^flags\s*:.*\blm\b", cpuinfo, re.MULTILINE):
        return "x86_64"
    if "CPU implementer" in cpuinfo and re.search(r"^Features\s*:.*\basimd\b", cpuinfo, re.MULTILINE):
        return "aarch64"
    machine = platform.machine()
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def _name(blocks: list[dict[str, str]], arch: str) -> str:
    names: dict[str, None] = {}
    for block in blocks:
        part = (block.get("CPU implementer", ""), block.get("CPU part", ""))
        # A big.LITTLE CPU has several kinds of cores; each is named once, in order.
        names[ARM_PARTS.get(part) or block.get("model name", "")] = None
    found = " + ".join(re.sub(r"\s+", " ", name) for name in names if name)
    return found or platform.processor() or arch


def _cores(blocks: list[dict[str, str]]) -> int:
    if not blocks:
        return os.cpu_count() or 1
    ids = {(b["physical id"], b["core id"]) for b in blocks if "physical id" in b and "core id" in b}
    return len(ids) or len(blocks)


def _features(blocks: list[dict[str, str]], arch: str) -> tuple[str, ...]:
    known = X86_FEATURES if arch == "x86_64" else ARM_FEATURES
    words = [set((b.get("flags") or b.get("Features") or "").split()) for b in blocks]
    if not words and sys.platform == "darwin" and arch == "aarch64":
        return ("neon", "asimddp")  # every Apple M has them; only sysctl lists the others
    # A thread may move to any core, so only features of all cores can be used.
    common = set.intersection(*words) if words else set()
    return tuple(ours for theirs, ours in known.items() if theirs in common)


def _control_group(root: Path, controller: str) -> list[Path]:
    """Returns the folders of this process's cgroups for a controller, innermost first."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if controllers and controller not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / (controller if controllers else "")
        inner = base / path.lstrip("/")
        # In a container, the path is that of the host, and only the base is mounted.
        return [inner, *(p for p in inner.parents if p.is_relative_to(base))]
    return []


def _quota(root: Path) -> float:
    """Returns the CPU quota of the cgroups, in processors; 0 if there is no limit."""
    quotas = []
    for folder in _control_group(root, "cpu"):
        v1 = f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}"
        words = (_read(folder / "cpu.max") or v1).split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=0.0)


def _memory(root: Path) -> tuple[int, int]:
    """Returns total and available bytes of memory."""
    sizes = {key: int(kb) * 1024 for key, kb in re.findall(r"^(\w+):\s+(\d+) kB", _read(root / "proc/meminfo"), re.M)}
    total = sizes.get("MemTotal", 0) or _memory_by_sysconf()
    available = sizes.get("MemAvailable", total)
    for folder in _control_group(root, "memory"):
        limit = (_read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")).strip()
        used = (_read(folder / "memory.current") or _read(folder / "memory.usage_in_bytes")).strip()
        # cgroup version 1 uses a number larger than any memory for "no limit".
        if not limit.isdigit() or int(limit) >= total:
            continue
        total = int(limit)
        cache = re.search(r"^(?:total_)?inactive_file (\d+)", _read(folder / "memory.stat"), re.M)
        free = total - (int(used) if used.isdigit() else 0) + (int(cache[1]) if cache else 0)
        available = max(0, min(available, free))
    return total, available


def _memory_by_sysconf() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0


def return_freed_memory() -> None:
    """Returns the freed memory of this process to the system, with glibc's ``malloc_trim``; no-op without glibc.

    glibc returns large blocks by itself, but raises the threshold up to 32 MB as large blocks are freed. Without this,
    the process keeps half a gigabyte after a session that has run YOLOv3 once.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
