"""Detects a Jetson: its board, L4T, JetPack and power mode."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

__all__ = ["Jetson", "JetPackStack", "jetpack_stack", "jetson"]

# NVIDIA, "JetPack Archive": the JetPack of each L4T release.
JETPACK_BY_L4T = {
    "32.4.3": "4.4",
    "32.4.4": "4.4.1",
    "32.5.0": "4.5",
    "32.5.1": "4.5.1",
    "32.6.1": "4.6",
    "32.7.1": "4.6.1",
    "32.7.2": "4.6.2",
    "32.7.3": "4.6.3",
    "32.7.4": "4.6.4",
    "32.7.5": "4.6.5",
    "32.7.6": "4.6.6",
    "34.1.0": "5.0",
    "34.1.1": "5.0.1",
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "36.2.0": "6.0 DP",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.2": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.4.0": "7.1",
}


class JetPackStack(msgspec.Struct, frozen=True, kw_only=True):
    """The versions in a JetPack: TensorRT, CUDA, and the Python version of TensorRT's package."""

    tensorrt: str
    cuda: str
    python: str


# NVIDIA, release notes of each JetPack.
STACK_BY_JETPACK = {
    "6.1": JetPackStack(tensorrt="10.3", cuda="12.6", python="3.10"),
    "6.2": JetPackStack(tensorrt="10.3", cuda="12.6", python="3.10"),
    "7.0": JetPackStack(tensorrt="10.13", cuda="13.0", python="3.12"),
    "7.1": JetPackStack(tensorrt="10.13", cuda="13.0", python="3.12"),
    "7.2": JetPackStack(tensorrt="10.16", cuda="13.2", python="3.12"),
}


class Jetson(msgspec.Struct, frozen=True, kw_only=True):
    """A Jetson board.

    Attributes:
        board: name of the board in the device tree.
        l4t: version of Linux for Tegra, such as ``36.4.3``; empty if the release file is missing.
        jetpack: version of JetPack; empty if L4T is newer than `JETPACK_BY_L4T`.
        power_mode: name of the current ``nvpmodel`` mode; empty if it cannot be read.
    """

    board: str
    l4t: str
    jetpack: str
    power_mode: str


def jetson(root: Path = Path("/")) -> Jetson | None:
    """Returns the Jetson that this process runs on, or None on another machine.

    Args:
        root: where ``etc``, ``proc`` and ``var`` are found.
    """
    release = _read(root / "etc/nv_tegra_release")
    model = _read(root / "proc/device-tree/model")
    if not release and "Jetson" not in model:
        return None
    l4t = _l4t(release)
    return Jetson(
        board=model or "Jetson",
        l4t=l4t,
        jetpack=JETPACK_BY_L4T.get(l4t, ""),
        power_mode=_power_mode(root),
    )


def jetpack_stack(jetpack: str) -> JetPackStack | None:
    """Returns the versions in a JetPack, which are the same for its patch releases; None if it is unknown."""
    return STACK_BY_JETPACK.get(".".join(jetpack.split(".")[:2]))


def _read(path: Path) -> str:
    try:
        # Device tree strings end with NUL.
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _l4t(release: str) -> str:
    """Parses ``# R36 (release), REVISION: 4.3, …`` to 36.4.3; ``REVISION: 3.0`` becomes 36.3.0, as NVIDIA writes it."""
    found = re.search(r"R(\d+) \(release\), REVISION: (\d+)(?:\.(\d+))?", release)
    return f"{found[1]}.{found[2]}.{found[3] or 0}" if found else ""


def _power_mode(root: Path) -> str:
    """Returns the name of the current ``nvpmodel`` mode, or its number if it has no name."""
    # The daemon writes the mode's number to one file; another has the names. Neither needs root.
    number = re.search(r"pmode:(\d+)", _read(root / "var/lib/nvpmodel/status"))
    if not number:
        return ""
    for mode, name in re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", _read(root / "etc/nvpmodel.conf")):
        if int(mode) == int(number[1]):
            return str(name)
    return str(int(number[1]))
