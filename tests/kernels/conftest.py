"""CUDA kernels compiled for the CPU with the stand-in header, and for GPUs with nvcc."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.kernels.compiled import FLAGS
from tools.build_kernels import resources_from_ptxas

STANDIN = Path(__file__).parent / "standin"
HOST_FLAGS = ("-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror")
DEVICE_FLAGS = (*FLAGS, "-cubin", "-Xptxas", "-v")

Resources = dict[str, dict[str, int]]


@pytest.fixture(scope="session")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compiles ``standin/NAME.cpp`` to a shared library; more flags may follow."""

    @functools.cache
    def compile(name: str, *flags: str) -> Path:
        if shutil.which("g++") is None:
            pytest.skip("needs g++")
        output = tmp_path_factory.mktemp("standin") / f"{name}.so"
        subprocess.run(["g++", *HOST_FLAGS, *flags, "-o", output, STANDIN / f"{name}.cpp"], check=True)
        return output

    return compile


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
