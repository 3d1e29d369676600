"""Compiles the CUDA kernels that EdgeKit ships: ``python -m tools.build_kernels --nvrtc libnvrtc.so.12``.

A CUDA 12 driver (JetPack 6) loads nothing that CUDA 13 compiled, and CUDA 12.6 does not know the newest architectures.
So two compilers are used: NVRTC of CUDA 12.6 (PyPI: ``nvidia-cuda-nvrtc-cu12==12.6.85``) and nvcc of CUDA 13.0. Each
file is compiled twice, and the two results must be equal. The binaries, compressed, and ``compiled.json`` (hash of
source and flags, compilers, minimum driver) are written to the folder ``compiled`` next to the source.
"""

from __future__ import annotations

import argparse
import ctypes
import lzma
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgekit.kernels.compiled import FLAGS, INDEX, Binary, Index, source_hash, source_text

ROOT = Path(__file__).parents[1]
SOURCES = tuple(ROOT / "edgekit" / "kernels" / name / f"{name}.cu" for name in ("nms", "decode", "preprocess"))
NVRTC_ARCHITECTURES = (75, 80, 86, 87, 89, 90)
NVCC_ARCHITECTURES = (110, 120, 121)
PTX_ARCHITECTURE = 80


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools.build_kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--nvrtc", type=Path, required=True, help="libnvrtc.so.12 of CUDA 12.6")
    parser.add_argument("--nvcc", default="nvcc", help="nvcc of CUDA 13.0")
    options = parser.parse_args(arguments)
    nvrtc = Nvrtc(options.nvrtc)
    for source in SOURCES:
        folder = source.parent / "compiled"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        binaries = []
        for architecture in NVRTC_ARCHITECTURES:
            binaries.append(_write(folder, f"sm_{architecture}.cubin", architecture, nvrtc.cubin(source, architecture)))
        binaries.append(
            _write(folder, f"compute_{PTX_ARCHITECTURE}.ptx", PTX_ARCHITECTURE, nvrtc.ptx(source, PTX_ARCHITECTURE))
        )
        for architecture in NVCC_ARCHITECTURES:
            image = _nvcc(options.nvcc, source, architecture)
            binaries.append(_write(folder, f"sm_{architecture}.cubin", architecture, image))
        index = Index(
            source_sha256=source_hash(source),
            flags=FLAGS,
            compilers={"nvrtc": nvrtc.release, "nvcc": _nvcc_release(options.nvcc)},
            binaries=tuple(binaries),
        )
        (folder / INDEX).write_bytes(msgspec.json.format(msgspec.json.encode(index), indent=1) + b"\n")
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{source.relative_to(ROOT)}: {len(binaries)} binaries, {size / 1024:.0f} KiB")
    return 0


def _write(folder: Path, name: str, architecture: int, compile: Callable[[], bytes]) -> Binary:
    first, second = compile(), compile()
    if first != second:
        raise SystemExit(f"{name}: two compilations gave different bytes")
    path = folder / f"{name}.xz"
    path.write_bytes(lzma.compress(first, preset=9 | lzma.PRESET_EXTREME))
    # A driver of CUDA 12 loads every cubin of CUDA 12, but PTX only up to its own version: 12.6 writes that of 12.5.
    driver = "13.0" if architecture in NVCC_ARCHITECTURES else "12.5" if name.endswith(".ptx") else "12.0"
    return Binary(file=path.name, architecture=architecture, minimum_driver=driver)


def _nvcc(nvcc: str, source: Path, architecture: int) -> Callable[[], bytes]:
    def compile() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "kernels.cubin"
            command = [nvcc, f"-arch=sm_{architecture}", *FLAGS, "-cubin", "-o", str(output), source.name]
            subprocess.run(command, check=True, cwd=source.parent)
            return output.read_bytes()

    return compile


def _nvcc_release(nvcc: str) -> str:
    text = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"V([\d.]+)", text)
    if found is None:
        raise SystemExit(f"{nvcc} --version: expected a version such as V13.0.88, got:\n{text}")
    return found[1]


class Nvrtc:
    """NVRTC, NVIDIA's compiler as a library, through ctypes; see its documentation for the functions."""

    def __init__(self, path: Path) -> None:
        # It loads its builtins library by name, which is in the same folder.
        builtins = next(path.parent.glob("libnvrtc-builtins.so.*"))
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
        self._library = ctypes.CDLL(str(path))
        self.release = ".".join(builtins.name.split(".")[-2:])

    def cubin(self, source: Path, architecture: int) -> Callable[[], bytes]:
        return lambda: self._compiled(source, f"sm_{architecture}", "CUBIN")

    def ptx(self, source: Path, architecture: int) -> Callable[[], bytes]:
        # Comments number the calls, through all compilations of a process.
        return lambda: re.sub(rb"// callseq .*", b"", self._compiled(source, f"compute_{architecture}", "PTX"))

    def _compiled(self, source: Path, architecture: str, kind: str) -> bytes:
        program = ctypes.c_void_p()
        self._check(
            "nvrtcCreateProgram",
            ctypes.byref(program),
            source_text(source).encode(),
            source.name.encode(),
            0,
            None,
            None,
        )
        options = [option.encode() for option in (f"--gpu-architecture={architecture}", *FLAGS)]
        status = self._library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        if status:
            raise SystemExit(f"{source.name} for {architecture}:\n{self._output(program, 'ProgramLog').decode()}")
        image = self._output(program, kind)
        self._check("nvrtcDestroyProgram", ctypes.byref(program))
        return image

    def _output(self, program: ctypes.c_void_p, kind: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(f"nvrtcGet{kind}Size", program, ctypes.byref(size))
        data = ctypes.create_string_buffer(size.value)
        self._check(f"nvrtcGet{kind}", program, data)
        return data.raw

    def _check(self, name: str, *arguments: object) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise SystemExit(f"{name} failed with status {status}")


if __name__ == "__main__":
    sys.exit(main())
