"""Finds NVIDIA GPUs and the CUDA version of the driver, without a CUDA library."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import msgspec

from edgekit.device.jetson import jetson

__all__ = ["Gpu", "driver_cuda_major", "gpus"]

QUERY = "--query-gpu=name,driver_version,memory.total,compute_cap"
# The first release of L4T, and of the driver elsewhere, that supports a CUDA version.
CUDA_BY_L4T = {36: 12, 38: 13}
CUDA_BY_DRIVER = {525: 12, 580: 13}
TIMEOUT_S = 10  # a driver that hangs must not hang `doctor`


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU that NVIDIA's driver reports.

    Attributes:
        name: name of the GPU, such as ``NVIDIA RTX A2000``.
        driver: the driver's version; empty if unknown.
        memory_bytes: memory of the GPU; 0 if unknown or shared with the CPU.
        compute_capability: compute capability, such as ``8.6``; empty if unknown.
    """

    name: str
    driver: str
    memory_bytes: int = 0
    compute_capability: str = ""


def gpus(root: Path = Path("/")) -> tuple[Gpu, ...]:
    """Returns the GPUs that ``nvidia-smi`` lists, else those in ``/proc``; empty if none.

    Args:
        root: where ``proc`` is found.
    """
    return _from_nvidia_smi() or _from_proc(root)


def driver_cuda_major(root: Path = Path("/")) -> int | None:
    """Returns the major CUDA version that NVIDIA's driver supports, without using CUDA; None if unknown.

    Sources: the CUDA release notes, "CUDA Toolkit and Corresponding Driver Versions", and `JETPACK_BY_L4T`.

    Args:
        root: where ``etc`` and ``proc`` are found.
    """
    board = jetson(root)
    if board and board.l4t:
        return _newest(int(board.l4t.partition(".")[0]), CUDA_BY_L4T)
    cards = gpus(root)
    return _newest(int(cards[0].driver.partition(".")[0]), CUDA_BY_DRIVER) if cards and cards[0].driver else None


def _newest(release: int, first: dict[int, int]) -> int | None:
    return max((cuda for since, cuda in first.items() if release >= since), default=None)


def _from_nvidia_smi() -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if not program:
        return ()
    command = [program, QUERY, "--format=csv,noheader,nounits"]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()  # installed without a working driver: the caller reads /proc
    rows = ([cell.strip() for cell in line.split(",")] for line in completed.stdout.splitlines())
    return tuple(_gpu(*row) for row in rows if len(row) == 4)


def _gpu(name: str, driver: str, memory_mib: str, capability: str) -> Gpu:
    """Converts a row of ``nvidia-smi``; a missing value is ``[N/A]``."""
    return Gpu(
        name=name,
        driver=driver if driver[:1].isdigit() else "",
        memory_bytes=int(memory_mib) * 2**20 if memory_mib.isdigit() else 0,
        compute_capability=capability if re.fullmatch(r"\d+\.\d+", capability) else "",
    )


def _from_proc(root: Path) -> tuple[Gpu, ...]:
    folder = root / "proc/driver/nvidia"
    try:
        version = re.search(r"Kernel Module(?: for \S+)?\s+(\d[\d.]*)", (folder / "version").read_text())
        cards = sorted((folder / "gpus").glob("*/information"))
        models = [re.search(r"^Model:\s*(.+?)\s*$", card.read_text(), re.MULTILINE) for card in cards]
    except OSError:
        return ()
    driver = version[1] if version else ""
    return tuple(Gpu(name=model[1], driver=driver) for model in models if model)
