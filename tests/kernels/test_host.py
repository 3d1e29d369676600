"""The compiled CPU kernels that are shipped: made from this source, and chosen by the machine."""

from __future__ import annotations

import os
import platform
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgekit
from edgekit.kernels import host

NMS = Path(edgekit.__file__).parent / "kernels" / "suppression"
MACHINES = {"x86_64": 62, "aarch64": 183}  # with their ELF machine numbers
PT_DYNAMIC, DT_NEEDED = 2, 1


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    host.library.cache_clear()
    yield
    host.library.cache_clear()


def test_the_libraries_were_made_from_this_source() -> None:
    index = host.read_index("nms")
    assert index.source_sha256 == host.source_hash(NMS / "greedy.c"), "run python -m tools.build_host_kernels"
    assert index.flags == host.FLAGS
    assert {*index.libraries.values(), host.INDEX} == {path.name for path in (NMS / "host").iterdir()}


@pytest.mark.parametrize("machine", MACHINES)
def test_each_library_is_for_its_machine_and_needs_no_other_library(machine: str) -> None:
    image = (NMS / "host" / host.read_index("nms").libraries[machine]).read_bytes()
    assert image[:6] == b"\x7fELF\x02\x01"  # 64 bits, little-endian
    assert struct.unpack_from("<H", image, 18)[0] == MACHINES[machine]
    start, size, number = (struct.unpack_from(form, image, at)[0] for form, at in (("<Q", 32), ("<H", 54), ("<H", 56)))
    headers = [struct.unpack_from("<IIQQQQQQ", image, start + size * index) for index in range(number)]
    offset, length = next((header[2], header[5]) for header in headers if header[0] == PT_DYNAMIC)
    assert DT_NEEDED not in [struct.unpack_from("<q", image, at)[0] for at in range(offset, offset + length, 16)]


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in MACHINES, reason="there is no library for this system"
)
def test_this_machine_has_a_library_that_loads() -> None:
    library = host.library("nms")
    assert library is not None and library.edgekit_nms


@pytest.mark.parametrize(("system", "machine"), [("linux", "riscv64"), ("darwin", "x86_64"), ("win32", "AMD64")])
def test_no_library_on_other_systems(monkeypatch: pytest.MonkeyPatch, system: str, machine: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert host.library("nms") is None


def test_no_library_where_it_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    index = (NMS / "host" / host.INDEX).read_bytes()
    (tmp_path / host.INDEX).write_bytes(index)
    monkeypatch.setattr(host, "_folder", lambda name: tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert host.library("nms") is None


def test_neither_addresses_nor_arithmetic_go_wrong(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    library = tmp_path / "greedy.so"
    checks = ["-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags = [flag for flag in host.FLAGS if flag not in ("-nostdlib", "-s")]
    subprocess.run(["gcc", *flags, *checks, "-o", library, NMS / "greedy.c"], check=True)
    runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    program = (
        "import ctypes\n"
        "import numpy as np\n"
        "from edgekit.kernels import host\n"
        "from edgekit.kernels.suppression.suppress import nms\n"
        f"library = ctypes.CDLL({str(library)!r})\n"
        "host.library = lambda name: library\n"
        "random = np.random.default_rng(0)\n"
        "for count in (0, 1, 2, 600, 5000):\n"
        "    corner = random.uniform(-50, 900, (count, 2))\n"
        "    boxes = np.concatenate([corner, corner + random.uniform(0, 90, (count, 2))], axis=1).astype(np.float32)\n"
        "    boxes[::7, 2] = np.inf\n"
        "    kinds = random.integers(-(2**63), 2**63 - 1, count)\n"
        "    for classes in (kinds, kinds % 3):\n"
        "        for most in (0, 1, 300, 10_000):\n"
        "            options = {'score_threshold': 0.1, 'iou_threshold': 0.4, 'max_detections': most}\n"
        "            print(len(nms(boxes, random.random(count, np.float32), classes, **options)))\n"
    )
    environment = os.environ | {
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    numbers = list(map(int, done.stdout.split()))
    assert len(numbers) == 40 and max(numbers) > 3000
