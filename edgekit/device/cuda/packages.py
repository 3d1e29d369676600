"""The install command of the CUDA package for NVIDIA's driver."""

from __future__ import annotations

import shlex
from pathlib import Path

from edgekit.device.nvidia import driver_cuda_major

__all__ = ["CUDA_12", "CUDA_13", "bindings_command"]

# A package for CUDA 13 calls functions that a driver for CUDA 12, such as JetPack 6's, does not have.
CUDA_12 = "cuda-bindings>=12.6,<13"
CUDA_13 = "cuda-bindings>=13.0"


def bindings_command(*others: str, cuda: str = "", options: str = "", root: Path = Path("/")) -> str:
    """Returns the command that installs cuda-bindings for the driver; names both versions if the driver is unknown.

    Args:
        others: other requirements to install.
        cuda: CUDA version that the driver supports, such as ``12.6``; detected without CUDA if empty.
        options: options of ``pip install``, such as ``--force-reinstall``.
        root: where ``etc`` and ``proc`` are found.
    """
    major = int(cuda.partition(".")[0]) if cuda else driver_cuda_major(root)
    install = " ".join(part for part in ("pip install", options, *map(shlex.quote, others)) if part)
    if major is None:
        return f"{install} '{CUDA_13}'; with a driver for CUDA 12: pip install '{CUDA_12}'"
    return f"{install} '{CUDA_13 if major >= 13 else CUDA_12}'"
