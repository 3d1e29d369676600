"""Runs pycuda, built with a CUDA toolkit, on a fake libcuda."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edgekit

FAKES = Path(__file__).parents[1] / "fakes"
VERSION = "2026.1"

DEFAULTS = """
CUDA_ROOT = {toolkit!r}
CUDA_ENABLE_CURAND = False
CUDADRV_LIB_DIR = [{stub!r}]
"""


def compiled(output: Path, name: str, source: str, *flags: str) -> None:
    command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(output), "-x", "c", source, *flags]
    subprocess.run(command, check=True)


def cuda_toolkit() -> Path | None:
    nvcc = shutil.which("nvcc")
    places = [os.environ.get("CUDA_HOME"), Path(nvcc).resolve().parents[1] if nvcc else None, "/usr/local/cuda"]
    return next((Path(place) for place in places if place and (Path(place) / "include" / "cuda.h").is_file()), None)


@pytest.mark.slow
def test_pycuda_runs_the_whole_driver_protocol(tmp_path: Path) -> None:
    toolkit = cuda_toolkit()
    if toolkit is None or not shutil.which("gcc"):
        pytest.skip("needs a CUDA toolkit and gcc to build pycuda with")
    stub, fake = tmp_path / "stub", tmp_path / "fake"
    stub.mkdir()
    fake.mkdir()
    compiled(stub / "libcuda.so", "libcuda.so.1", "/dev/null")
    compiled(fake / "libcuda.so.1", "libcuda.so.1", str(FAKES / "libcuda.c"), "-ldl")
    (tmp_path / ".aksetup-defaults.py").write_text(DEFAULTS.format(toolkit=str(toolkit), stub=str(stub)))
    environment = os.environ | {
        "HOME": str(tmp_path),
        "PATH": f"{toolkit / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "LDFLAGS": "-Wl,--no-as-needed",
        "LD_LIBRARY_PATH": str(fake),
        "PYTHONPATH": str(Path(edgekit.__file__).parents[1]),
    }
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", f"pycuda=={VERSION}", "numpy", "msgspec"]
    built = subprocess.run(install, capture_output=True, text=True, env=environment, check=False)
    assert built.returncode == 0, built.stderr[-2000:]
    done = subprocess.run(
        [python, FAKES / "whole_life.py", "pycuda"], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    # The context is kept until the process ends.
    assert done.stdout.splitlines()[1:] == ["[2.5, 3.5, 4.5] 4.0", "left: 1"]
