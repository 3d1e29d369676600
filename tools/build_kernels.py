"""Compiles the kernels that EdgeKit ships: ``python -m tools.build_kernels --nvrtc libnvrtc.so.12 --ptxas ptxas``.

A CUDA 12 driver (JetPack 6) loads nothing that CUDA 13 compiled, and CUDA 12.6 does not know the newest architectures.
So two compilers are used: NVRTC of CUDA 12.6 (PyPI: ``nvidia-cuda-nvrtc-cu12==12.6.85``) and nvcc of CUDA 13.0. Each
file is compiled twice, and the two results must be equal. The binaries, compressed, and ``compiled.json`` (hash of
source and flags, compilers, minimum driver) are written to the folder ``compiled`` next to the source.

Attention is compiled by Triton (the extra ``kernels``) to PTX, and that by ``ptxas`` of CUDA 12.6 (PyPI:
``nvidia-cuda-nvcc-cu12==12.6.85``, whose ``ptxas`` must be made executable) and of CUDA 13.0. Triton compiles for three
architectures: sm_80, whose PTX is assembled for all others; sm_75, which runs no PTX of sm_80; and sm_90, which has
instructions for matrices of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import importlib.metadata
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgekit.kernels.compiled import FLAGS, FOLDERS, INDEX, Binary, Index, source_hash, source_text
from edgekit.kernels.sdpa.variants import parts
from tools import triton_to_ptx

ROOT = Path(__file__).parents[1]
SOURCES = tuple(ROOT / "edgekit" / "kernels" / FOLDERS[name] / f"{name}.cu" for name in ("nms", "decode", "preprocess"))
NVRTC_ARCHITECTURES = (75, 80, 86, 87, 89, 90)
NVCC_ARCHITECTURES = (110, 120, 121)
PTX_ARCHITECTURE = 80

ATTENTION = ROOT / "edgekit" / "kernels" / "sdpa"
RESOURCES = ROOT / "tests" / "kernels" / "recorded" / "attention.json"
PTXAS_ARCHITECTURES = (75, 80, 86, 87, 89, 90)
TRITON_ARCHITECTURES = (75, 80, 90)
# Triton's code for sm_90 multiplies matrices with wgmma, which only the target sm_90a has.
FEATURE_ARCHITECTURES = (90,)
MAX_REGISTERS = 255

T = TypeVar("T")
# PTX and shared memory of each kernel.
Kernels = dict[str, dict[str, Any]]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools.build_kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--nvrtc", type=Path, help="libnvrtc.so.12 of CUDA 12.6, to compile CUDA C++")
    parser.add_argument("--ptxas", type=Path, help="ptxas of CUDA 12.6, to compile attention")
    parser.add_argument("--nvcc", default="nvcc", help="nvcc of CUDA 13.0")
    options = parser.parse_args(arguments)
    if options.nvrtc:
        _build_cuda(Nvrtc(options.nvrtc), options)
    if options.ptxas:
        _build_attention(options.ptxas.absolute(), options.nvcc)
    return 0


def _build_cuda(nvrtc: Nvrtc, options: argparse.Namespace) -> None:
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
            compilers={"nvrtc": nvrtc.release, "nvcc": _release(options.nvcc)},
            binaries=tuple(binaries),
        )
        _write_index(source, folder, index)


def _write_index(source: Path, folder: Path, index: Index) -> None:
    (folder / INDEX).write_bytes(msgspec.json.format(msgspec.json.encode(index), indent=1) + b"\n")
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{source.relative_to(ROOT)}: {len(index.binaries)} binaries, {size / 1024:.0f} KiB")


def _write(folder: Path, name: str, architecture: int, compile: Callable[[], bytes]) -> Binary:
    first = _twice(name, compile)
    path = folder / f"{name}.xz"
    path.write_bytes(lzma.compress(first, preset=9 | lzma.PRESET_EXTREME))
    # A driver of CUDA 12 loads every cubin of CUDA 12, but PTX only up to its own version: 12.6 writes that of 12.5.
    driver = "13.0" if architecture in NVCC_ARCHITECTURES else "12.5" if name.endswith(".ptx") else "12.0"
    return Binary(file=path.name, architecture=architecture, minimum_driver=driver)


def _twice(name: str, compile: Callable[[], T]) -> T:
    first, second = compile(), compile()
    if first != second:
        raise SystemExit(f"{name}: two compilations gave different bytes")
    return first


def _nvcc(nvcc: str, source: Path, architecture: int) -> Callable[[], bytes]:
    def compile() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "kernels.cubin"
            command = [nvcc, f"-arch=sm_{architecture}", *FLAGS, "-cubin", "-o", str(output), source.name]
            subprocess.run(command, check=True, cwd=source.parent)
            return output.read_bytes()

    return compile


def _release(compiler: str) -> str:
    text = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"V([\d.]+)", text)
    if found is None:
        raise SystemExit(f"{compiler} --version: expected a version such as V13.0.88, got:\n{text}")
    return found[1]


def _build_attention(ptxas: Path, nvcc: str) -> None:
    """Compiles all kernels of a type and a head size to one module, and all modules of an architecture to one file."""
    folder = ATTENTION / "compiled"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        wanted = [(capability, *part) for capability in TRITON_ARCHITECTURES for part in parts(capability=capability)]
        ptx = dict(zip(wanted, pool.map(lambda key: _twice(f"{key}", lambda: _triton(*key)), wanted), strict=True))
        newest = Path(shutil.which(nvcc) or nvcc).with_name("ptxas")
        binaries, resources = [], {}
        for architecture in (*PTXAS_ARCHITECTURES, *NVCC_ARCHITECTURES):
            assembler = newest if architecture in NVCC_ARCHITECTURES else ptxas
            modules = _modules(ptx, architecture)
            assembled = pool.map(functools.partial(_cubin, assembler, architecture), modules.values())
            cubins = dict(zip(modules, assembled, strict=True))
            resources[f"sm_{architecture}"] = {name: row for cubin in cubins.values() for name, row in cubin[1].items()}
            name, images = f"sm_{architecture}.cubin", {part: cubin[0] for part, cubin in cubins.items()}
            binaries.append(_write_parts(folder, name, architecture, images, modules))
    modules = _modules(ptx, PTX_ARCHITECTURE)
    images = {part: _merged(module).encode() + b"\0" for part, module in modules.items()}
    binaries.append(_write_parts(folder, f"compute_{PTX_ARCHITECTURE}.ptx", PTX_ARCHITECTURE, images, modules))
    sources = tuple(ATTENTION / name for name in ("triton_kernels.py", "variants.py"))
    index = Index(
        source_sha256=source_hash(*sources, Path(triton_to_ptx.__file__), flags=triton_to_ptx.FLAGS),
        flags=triton_to_ptx.FLAGS,
        compilers={
            "triton": importlib.metadata.version("triton"),
            "ptxas": _release(str(ptxas)),
            "ptxas of nvcc": _release(str(newest)),
        },
        binaries=tuple(binaries),
    )
    _write_index(sources[0], folder, index)
    rows = [f'  "{name}": {json.dumps(row)}' for name, row in resources.items()]
    RESOURCES.write_text("{\n" + ",\n".join(rows).replace("}, ", "},\n    ") + "\n}\n")


def _modules(ptx: dict[tuple[int, str, int], Kernels], architecture: int) -> dict[str, Kernels]:
    """Returns the PTX for an architecture, by type and head size."""
    capability = architecture if architecture in TRITON_ARCHITECTURES else PTX_ARCHITECTURE
    return {f"{kind}_{size}": ptx[capability, kind, size] for kind, size in parts(capability=capability)}


def _triton(capability: int, type_name: str, head_size: int) -> Kernels:
    """Compiles to PTX in a process of its own, because an architecture that Triton does not support may end it."""
    command = [sys.executable, "-m", "tools.triton_to_ptx", type_name, str(head_size), str(capability)]
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"TRITON_CACHE_DIR": cache}
        done = subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    found: Kernels = json.loads(done.stdout)
    return found


def _merged(module: Kernels, unlimited: Collection[str] = ()) -> str:
    """Merges the PTX of kernels: what stands before the kernels once, then the kernels.

    Kernels in ``unlimited`` may have as many registers as a thread can. Otherwise ptxas also fits blocks into a
    multiprocessor, and spills registers for it.
    """
    declarations: dict[str, None] = {}
    kernels = []
    for name, kernel in module.items():
        before, entry, text = kernel["ptx"].partition(".visible .entry")
        if name in unlimited:
            text = re.sub(r"(?<=\n)\.reqntid \d+", rf"\g<0>\n.maxnreg {MAX_REGISTERS}", text, count=1)
        lines = (line.partition("//")[0].strip() for line in before.splitlines())
        declarations |= dict.fromkeys(line for line in lines if line)
        kernels.append((entry + text).rstrip())
    return "\n".join([*declarations, *kernels, ""])


def _cubin(ptxas: Path, architecture: int, module: Kernels) -> tuple[bytes, dict[str, dict[str, int]]]:
    """Assembles a module, twice; returns it and the resources of its kernels."""
    image, text = _twice(f"sm_{architecture}", lambda: _assembled(ptxas, architecture, _merged(module)))
    if spilling := _spilling(text):
        merged = _merged(module, spilling)
        image, text = _twice(f"sm_{architecture}", lambda: _assembled(ptxas, architecture, merged))
    resources = resources_from_ptxas(text)
    if _spilling(text) or set(resources) != set(module):
        raise SystemExit(f"sm_{architecture}: expected {len(module)} kernels without spills, got:\n{text}")
    return image, resources


def _assembled(ptxas: Path, architecture: int, ptx: str) -> tuple[bytes, str]:
    name = f"sm_{architecture}{'a' if architecture in FEATURE_ARCHITECTURES else ''}"
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "kernels.ptx", Path(folder) / "kernels.cubin"
        source.write_text(ptx)
        command = [str(ptxas), "-v", f"--gpu-name={name}", str(source), "-o", str(output)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return output.read_bytes(), re.sub(r"[\d.]+ ms", "", done.stderr)


def _spilling(text: str) -> list[str]:
    return [kernel for kernel, row in resources_from_ptxas(text).items() if row["spilled_bytes"]]


def _write_parts(
    folder: Path, name: str, architecture: int, images: dict[str, bytes], modules: dict[str, Kernels]
) -> Binary:
    path = folder / f"{name}.xz"
    path.write_bytes(lzma.compress(b"".join(images.values()), preset=9 | lzma.PRESET_EXTREME))
    return Binary(
        file=path.name,
        architecture=architecture,
        # Triton writes PTX 8.0, which the driver of CUDA 12.0 takes.
        minimum_driver="13.0" if architecture in NVCC_ARCHITECTURES else "12.0",
        parts={part: len(image) for part, image in images.items()},
        shared_bytes={
            name: kernel["shared_bytes"]
            for module in modules.values()
            for name, kernel in module.items()
            if kernel["shared_bytes"]
        },
    )


def resources_from_ptxas(text: str) -> dict[str, dict[str, int]]:
    """Registers, shared memory and spilled bytes of each kernel, from the output of ``ptxas -v``."""
    found: dict[str, dict[str, int]] = {}
    for part in re.split(r"Function properties for ", text)[1:]:
        if part.startswith("__internal"):  # a function of CUDA's own, such as that for sines of large angles
            continue
        numbers = {
            "spilled_bytes": r"(\d+) bytes spill stores",
            "registers": r"Used (\d+) registers",
            "shared_bytes": r"(\d+) bytes smem",
        }
        found[part.split()[0]] = {
            name: int(match[1]) if (match := re.search(pattern, part)) else 0 for name, pattern in numbers.items()
        }
    return found


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
