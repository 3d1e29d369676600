"""Findings about NVIDIA hardware: the Jetson board, the GPUs, and access to them through CUDA."""

from __future__ import annotations

import contextlib
import platform
import re
from importlib import metadata

from edgekit.cli.doctor.finding import Finding
from edgekit.device.cuda.choose import device_properties, driver
from edgekit.device.cuda.driver import DeviceProperties
from edgekit.device.cuda.packages import bindings_command
from edgekit.device.jetson import Jetson, jetpack_stack
from edgekit.device.nvidia import Gpu
from edgekit.engine.backend import backend
from edgekit.engine.tensorrt.dla import DLA_MATRIX, require_dla
from edgekit.errors import BackendUnavailable, EdgeKitError, UsageError
from edgekit.kernels import compiled
from edgekit.report.wording import bytes_in_words
from edgekit.specs import Precision

__all__ = ["cuda_findings", "dla_findings", "gpu_findings", "jetson_findings"]

MIN_JETPACK = (6, 1)
PACKAGES = ("cuda-bindings", "pycuda")


def jetson_findings(board: Jetson | None) -> list[Finding]:
    """Returns findings about the board and its JetPack."""
    if board is None:
        return []
    words = [board.board, board.power_mode and f"power mode {board.power_mode}"]
    words.insert(1, f"JetPack {board.jetpack}" if board.jetpack else f"L4T {board.l4t or 'unknown'}")
    value = ", ".join(word for word in words if word)
    numbers = tuple(map(int, re.findall(r"\d+", board.jetpack)[:2]))
    if numbers and numbers < MIN_JETPACK[: len(numbers)]:
        hint = "EdgeKit supports JetPack 6.1 (TensorRT 10.3) and newer: " + (
            "JetPack 5 and older are not supported, flash a newer one"
            if numbers < (6,)
            else "upgrade it with apt, see NVIDIA's JetPack documentation"
        )
        return [Finding(group="machine", name="Jetson", status="caution", value=value, hint=hint)]
    return [Finding(group="machine", name="Jetson", status="ok", value=value), *_stack_findings(board)]


def _stack_findings(board: Jetson) -> list[Finding]:
    stack = jetpack_stack(board.jetpack)
    if stack is None:
        return []
    value = f"includes TensorRT {stack.tensorrt}, CUDA {stack.cuda}, Python {stack.python}"
    if platform.python_version().startswith(f"{stack.python}."):
        return [Finding(group="machine", name="JetPack", status="fact", value=value)]
    hint = (
        f"its TensorRT needs Python {stack.python}, and this is Python {platform.python_version()}: "
        f"/usr/bin/python{stack.python} -m venv --system-site-packages ENVIRONMENT"
    )
    return [Finding(group="machine", name="JetPack", status="caution", value=value, hint=hint)]


def dla_findings(board: Jetson | None) -> list[Finding]:
    """Returns what a DLA can run with the board's TensorRT, and with the other versions; see `DLA_MATRIX`."""
    if board is None:
        return []
    matrix = "; ".join(
        f"{row.versions}: {', '.join(str(precision).upper() for precision in row.precisions) or 'none'} ({row.why})"
        for row in DLA_MATRIX
    )
    try:
        version = backend("tensorrt").version()
    except BackendUnavailable:
        return [Finding(group="machine", name="DLA", status="fact", value=f"by version of TensorRT: {matrix}")]
    possible = []
    for precision in (Precision.FP16, Precision.INT8):
        with contextlib.suppress(UsageError):
            require_dla(version, precision, board, 0)
            possible.append(f"--{precision}")
    value = f"--dla with TensorRT {version} here: {', '.join(possible) or 'not possible'}"
    return [Finding(group="machine", name="DLA", status="fact", value=f"{value}. By version: {matrix}")]


def gpu_findings(cards: tuple[Gpu, ...], board: Jetson | None) -> list[Finding]:
    """Returns findings about the GPUs that the driver reports."""
    if not cards and board is None:
        value = "no NVIDIA GPU, or no NVIDIA driver"
        return [Finding(group="machine", name="GPU", status="fact", value=value)]
    return [Finding(group="machine", name="GPU", status="fact", value=_card(card)) for card in cards]


def _card(card: Gpu) -> str:
    memory = bytes_in_words(card.memory_bytes) if card.memory_bytes else ""
    capability = card.compute_capability and f"compute capability {card.compute_capability}"
    version = f"driver {card.driver}" if card.driver else ""
    return ", ".join(word for word in (card.name, memory, capability, version) if word)


def cuda_findings(cards: tuple[Gpu, ...], board: Jetson | None) -> list[Finding]:
    """Returns the finding about CUDA in Python; it is only a fact if there is no GPU."""
    installed = ", ".join(f"{name} {version}" for name in PACKAGES if (version := _version(name)))
    try:
        found, device = driver(), device_properties()
    except EdgeKitError as e:
        if not cards and board is None:
            value = f"{installed or 'neither cuda-bindings nor pycuda'}, and no GPU"
            return [Finding(group="machine", name="CUDA", status="fact", value=value)]
        return [Finding(group="machine", name="CUDA", status="missing", value=e.message, hint=e.hint)]
    except Exception as e:  # a package that is installed but broken
        value = f"{installed} does not work: {type(e).__name__}: {e}"
        hint = bindings_command(options="--force-reinstall")
        return [Finding(group="machine", name="CUDA", status="missing", value=value, hint=hint)]
    capability = ".".join(map(str, device.compute_capability))
    shared = ", memory shared with the CPU" if device.integrated else ""
    value = f"{found.name} {_version(found.name)}, driver for CUDA {device.driver_version}: {device.name}, {capability}"
    return [Finding(group="machine", name="CUDA", status="ok", value=value + shared), _kernels(device)]


def _kernels(device: DeviceProperties) -> Finding:
    """Returns the finding about the compiled kernels that run on this GPU; the rest of their work is the CPU's."""
    binaries: dict[str, list[str]] = {}
    reasons = []
    for name in compiled.NAMES:
        try:
            file = compiled.choose(name, device).file.removesuffix(".xz")
        except BackendUnavailable as e:
            file = "none for this GPU"
            reasons.append(e.message)
        binaries.setdefault(file, []).append(name)
    value = "; ".join(f"{', '.join(names)}: {file}" for file, names in binaries.items())
    if not reasons:
        return Finding(group="machine", name="CUDA kernels", status="ok", value=value)
    hint = f"the CPU does their work: {reasons[0]}"
    return Finding(group="machine", name="CUDA kernels", status="caution", value=value, hint=hint)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
