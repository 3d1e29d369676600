"""The compiled CPU kernels that are shipped: made from this source, and chosen by the machine."""

from __future__ import annotations

import platform
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgekit
from edgekit.kernels import host

NMS = Path(edgekit.__file__).parent / "kernels" / "nms"
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
