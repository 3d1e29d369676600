"""Collects the findings of ``edgekit doctor``, and concludes what this machine can build and run."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import msgspec

import edgekit
from edgekit.cli.doctor.finding import Finding
from edgekit.cli.doctor.nvidia import cuda_findings, dla_findings, gpu_findings, jetson_findings
from edgekit.device.cpu import Cpu, cpu
from edgekit.device.jetson import Jetson, jetson
from edgekit.device.nvidia import Gpu, gpus
from edgekit.engine.backend import backend
from edgekit.engine.table import BACKENDS
from edgekit.errors import BackendUnavailable
from edgekit.extras import install_command, other_version
from edgekit.measure.machine import system_name
from edgekit.report.wording import BACKEND_NAMES, bytes_in_words
from edgekit.storage import cache_folder, free_bytes
from edgekit.telemetry import SWITCH, sends_nothing

__all__ = ["Finding", "Survey", "survey"]

BUILD_NEEDS_BYTES = 3_000_000_000
DISK_NEEDS_BYTES = 2_000_000_000
PACKAGES = {"cpu": "onnxruntime", "openvino": "openvino"}
"""The package of a target's library, in the extra of the target's name; TensorRT's are not in an extra."""
GRAPH_ONLY = (
    "without TensorRT, edgekit build … --target tensorrt --graph-only writes a bundle for a machine that has it"
)


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """All findings, and the conclusions.

    Attributes:
        edgekit: version of EdgeKit.
        findings: the findings, in the order in which they are printed.
        can_build: whether models can be compiled here.
        can_run: backends that can run engines here.
        verdict: the conclusions as sentences.
    """

    edgekit: str
    findings: tuple[Finding, ...]
    can_build: bool
    can_run: tuple[str, ...]
    verdict: tuple[str, ...]


def survey() -> Survey:
    """Checks this machine; imports the backends to test them, but not PyTorch and the other build packages."""
    here, board, cards = cpu(), jetson(), gpus()
    backends = _backends()
    build = _build_extra()
    no_device = tuple(finding.name for finding in backends if finding.status == "caution")
    can_build = all(finding.status == "ok" for finding in build)
    can_run = tuple(finding.name for finding in backends if finding.status == "ok" and finding.name != "null")
    return Survey(
        edgekit=edgekit.__version__,
        findings=(*_machine(here, board, cards), *backends, *build),
        can_build=can_build,
        can_run=can_run,
        verdict=tuple(_verdict(can_build, can_run, no_device, here)),
    )


def _machine(here: Cpu, board: Jetson | None, cards: tuple[Gpu, ...]) -> list[Finding]:
    cores = f"{here.name}, {here.arch}, {here.cores} cores, {here.threads} threads for this process"
    findings = [
        Finding(group="machine", name="EdgeKit", status="ok", value=edgekit.__version__),
        Finding(group="machine", name="Python", status="ok", value=f"{platform.python_version()}, {sys.executable}"),
        Finding(group="machine", name="system", status="fact", value=system_name()),
        Finding(group="machine", name="processor", status="fact", value=cores),
        _integers(here),
        _memory(here),
        _disk(cache_folder()),
        _telemetry(),
    ]
    boards = [*jetson_findings(board), *dla_findings(board)]
    return [*findings, *boards, *gpu_findings(cards, board), *cuda_findings(cards, board)]


def _integers(here: Cpu) -> Finding:
    features = ", ".join(here.features)
    if here.fast_int8:
        return Finding(group="machine", name="8-bit integers", status="ok", value=f"fast ({features})")
    return Finding(
        group="machine",
        name="8-bit integers",
        status="caution",
        value=f"no dot-product instructions ({features or 'no known instruction set'})",
        hint="INT8 engines run and are smaller, but hardly faster without VNNI, AMX or Arm's dot product instructions "
        "(microsoft/onnxruntime #17389)",
    )


def _memory(here: Cpu) -> Finding:
    if not here.memory_bytes:
        return Finding(group="machine", name="memory", status="fact", value="unknown")
    value = f"{bytes_in_words(here.available_bytes)} of {bytes_in_words(here.memory_bytes)} free"
    if here.available_bytes >= BUILD_NEEDS_BYTES:
        return Finding(group="machine", name="memory", status="ok", value=value)
    hint = f"building YOLOv3 in INT8 needs up to {bytes_in_words(BUILD_NEEDS_BYTES)}; running engines needs far less"
    return Finding(group="machine", name="memory", status="caution", value=value, hint=hint)


def _disk(cache: Path) -> Finding:
    free = free_bytes(cache)
    value = f"{cache}, {bytes_in_words(free)} free"
    if free >= DISK_NEEDS_BYTES:
        return Finding(group="machine", name="cache", status="ok", value=value)
    hint = "downloads are stored there; set EDGEKIT_CACHE to use another folder"
    return Finding(group="machine", name="cache", status="caution", value=value, hint=hint)


def _telemetry() -> Finding:
    if sends_nothing():
        value = (
            f"off: ONNX Runtime's ({SWITCH}={os.environ[SWITCH]}) and OpenVINO's (its package is not loaded). "
            "In a Python program, import edgekit before onnxruntime: its telemetry cannot be switched off afterwards"
        )
        return Finding(group="machine", name="telemetry", status="ok", value=value)
    return Finding(
        group="machine",
        name="telemetry",
        status="caution",
        value=f"OpenVINO's is off, ONNX Runtime's is on: {SWITCH} is '{os.environ.get(SWITCH, '')}'",
        hint=f"unset {SWITCH}, or set it to 1, to switch it off",
    )


def _backends() -> list[Finding]:
    return [_backend(name) for name in BACKENDS]


def _backend(name: str) -> Finding:
    """Checks whether a target builds and runs engines; any exception of its library becomes a finding."""
    hint = GRAPH_ONLY if name == "tensorrt" else ""
    try:
        library = backend(name)
        library.require()
        value = f"{BACKEND_NAMES.get(name, name)} {library.version()}"
        try:
            library.require_device(())
        except BackendUnavailable as e:
            value = f"{value} can build engines, but not run them here: {e.message}"
            return Finding(group="backends", name=name, status="caution", value=value, hint=e.hint)
    except BackendUnavailable as e:
        hint = "\n".join(line for line in (e.hint, hint) if line)
        return Finding(group="backends", name=name, status="missing", value=e.message, hint=hint)
    except Exception as e:
        value = f"installed, but does not work: {type(e).__name__}: {e}"
        hint = "reinstall it with pip install --force-reinstall"
        return Finding(group="backends", name=name, status="missing", value=value, hint=hint)
    value = "outputs zeros, for tests" if name == "null" else value
    found = Finding(group="backends", name=name, status="ok", value=value)
    return _of_version(name, PACKAGES[name], found) if name in PACKAGES else found


def _build_extra() -> list[Finding]:
    """Checks the packages of the extra ``build`` without importing them: importing torch takes seconds."""
    findings = []
    for name in ("torch", "onnx", "onnx-ir", "onnxscript", "safetensors"):
        try:
            value = metadata.version(name)
        except metadata.PackageNotFoundError:
            hint = install_command("build", name)
            findings.append(Finding(group="build", name=name, status="missing", value="not installed", hint=hint))
        else:
            findings.append(_of_version("build", name, Finding(group="build", name=name, status="ok", value=value)))
    return findings


def _of_version(extra: str, package: str, found: Finding) -> Finding:
    """Returns what was found, or that another version of the package is needed."""
    if not (expected := other_version(extra, package)):
        return found
    value = f"{found.value}: expected {package}{expected}"
    return msgspec.structs.replace(found, status="missing", value=value, hint=install_command(extra, package))


def _verdict(can_build: bool, can_run: tuple[str, ...], no_device: tuple[str, ...], here: Cpu) -> list[str]:
    if can_build and can_run:
        first = f"This machine can build engines and run them on: {', '.join(can_run)}."
    elif can_run:
        first = (
            f"This machine can run engines on: {', '.join(can_run)}. To build engines here as well: "
            f"{install_command('build')}"
        )
    elif can_build:
        first = (
            f"This machine can compile graphs, but cannot run engines. To run them on its CPU: {install_command('cpu')}"
        )
    else:
        first = f"This machine can neither build nor run engines yet. To do both: {install_command('build')}"
    lines = [first]
    if can_build and no_device:
        lines.append(f"It can also build engines for {', '.join(no_device)}, which need a GPU to run.")
    if can_run and not here.fast_int8:
        lines.append("INT8 makes engines smaller here, but hardly faster: the CPU has no dot-product instructions.")
    return lines
