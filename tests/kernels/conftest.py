"""CUDA kernels compiled for the CPU with the stand-in header, and for GPUs with nvcc."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.kernels.compiled import FLAGS
from tools.build_kernels import resources_from_ptxas

SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
DEVICE_FLAGS = (*FLAGS, "-cubin", "-Xptxas", "-v")
ARCHITECTURES = (75, 80, 86, 87, 89, 90, 110, 120, 121)
RECORDED = Path(__file__).parent / "recorded" / "ptxas.json"

Resources = dict[str, dict[str, int]]


@pytest.fixture(scope="session")
def sanitized(on_cpu: Callable[..., Path]) -> Callable[[str, str], str]:
    """Runs a Python program with ``standin/NAME.cpp`` under sanitizers, as ``library``; returns what it prints."""

    def run(name: str, program: str) -> str:
        library = on_cpu(name, *SANITIZERS)
        runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
        start = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); library = {str(library)!r}\n"
        environment = os.environ | {
            "LD_PRELOAD": runtime.stdout.strip(),
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        done = subprocess.run([sys.executable, "-c", start + program], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


# Each compilation takes seconds: the other architectures are compiled with the slow tests.
SLOW = [pytest.param(each, marks=pytest.mark.slow) for each in ARCHITECTURES if each not in (87, 120)]


@pytest.fixture(params=[87, 120, *SLOW])
def architecture(request: pytest.FixtureRequest) -> int:
    """Compute capability times ten of each GPU that EdgeKit has a binary for."""
    return int(request.param)


@pytest.fixture(scope="session")
def check_resources(resources: Callable[[Path, int], Resources]) -> Callable[[Path, int], None]:
    """Checks that no kernel of a file spills, and that each takes the registers and shared memory that are recorded."""

    def check(source: Path, architecture: int) -> None:
        found = resources(source, architecture)
        assert {kernel: numbers["spilled_bytes"] for kernel, numbers in found.items()} == dict.fromkeys(found, 0)
        recorded = json.loads(RECORDED.read_text())
        expected = recorded[source.stem][f"sm_{architecture}"]
        assert set(found) == set(expected)
        if recorded["nvcc"] == nvcc_release():
            assert found == expected

    return check


@pytest.fixture(scope="session")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, int], Resources]:
    """Compiles a kernel file for an architecture; returns what ptxas reports of each kernel."""

    def compile(source: Path, architecture: int) -> Resources:
        if shutil.which("nvcc") is None:
            pytest.skip("needs nvcc")
        output = tmp_path_factory.mktemp("cubin") / f"{source.stem}.cubin"
        command = ["nvcc", f"-arch=sm_{architecture}", *DEVICE_FLAGS, "-o", str(output), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return resources_from_ptxas(done.stderr)

    return compile


def nvcc_release() -> str:
    done = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True)
    return re.search(r"V([\d.]+)", done.stdout)[1]  # type: ignore[index]
