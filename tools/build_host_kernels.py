"""Compiles the CPU kernels that EdgeKit ships: ``python -m tools.build_host_kernels``.

The compiler is Zig's clang (PyPI: ``ziglang==0.17.1``), since one package compiles for all architectures. Each library
is compiled twice, and the two results must be equal. The libraries and ``host.json`` (hash of source and flags,
compiler) are written to the folder ``host`` next to the source.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from edgekit.kernels.host import FLAGS, INDEX, HostIndex, source_hash

ROOT = Path(__file__).parents[1]
SOURCES = (ROOT / "edgekit" / "kernels" / "suppression" / "greedy.c",)
MACHINES = ("aarch64", "x86_64")
RELEASE = "0.17.1"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools.build_host_kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environment that has ziglang")
    zig = [parser.parse_args(arguments).python, "-m", "ziglang"]
    release = subprocess.run([*zig, "version"], check=True, capture_output=True, text=True).stdout.strip()
    if release != RELEASE:
        raise SystemExit(f"ziglang: expected {RELEASE}, got {release}; run: pip install ziglang=={RELEASE}")
    for source in SOURCES:
        folder = source.parent / "host"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        libraries = {}
        for machine in MACHINES:
            libraries[machine] = f"{source.stem}-{machine}.so"
            first, second = (_compiled(zig, source, machine) for _ in range(2))
            if first != second:
                raise SystemExit(f"{libraries[machine]}: two compilations gave different bytes")
            (folder / libraries[machine]).write_bytes(first)
        index = HostIndex(
            source_sha256=source_hash(source), flags=FLAGS, compiler=f"zig {release}", libraries=libraries
        )
        (folder / INDEX).write_bytes(msgspec.json.format(msgspec.json.encode(index), indent=1) + b"\n")
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{source.relative_to(ROOT)}: {len(libraries)} libraries, {size / 1024:.0f} KiB")
    return 0


def _compiled(zig: list[str], source: Path, machine: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "kernel.so"
        command = [*zig, "cc", "-target", f"{machine}-linux-musl", *FLAGS, "-o", str(output), source.name]
        subprocess.run(command, check=True, cwd=source.parent)
        return output.read_bytes()


if __name__ == "__main__":
    sys.exit(main())
