from __future__ import annotations

import mmap
import platform
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.device import huge_pages as module
from edgekit.device.huge_pages import huge_pages

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of them")
HUGE = 2 << 20
SIZE = 8 * HUGE


def _rollup(field: str) -> int:
    """Bytes of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def _mapped(size: int = SIZE) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _filled() -> mmap.mmap:
    memory = _mapped()
    memory.write(bytes(range(256)) * (SIZE // 256))
    return memory


def _moves() -> bool:
    """Whether the kernel supports MADV_COLLAPSE."""
    release = re.match(r"(\d+)\.(\d+)", platform.release())
    return module._size_on_demand() == HUGE and release is not None and tuple(map(int, release.groups())) >= (6, 1)


@LINUX
@pytest.mark.skipif(not _moves(), reason="huge pages of 2 MiB are not there for the asking")
def test_what_is_mapped_inside_is_moved_and_stays_what_it_was() -> None:
    outside = _filled()
    before = _rollup("AnonHugePages")
    with huge_pages():
        inside = _filled()
    moved = _rollup("AnonHugePages") - before
    assert SIZE - 2 * HUGE <= moved < 2 * SIZE
    assert inside[:] == outside[:]


@LINUX
def test_memory_that_is_hardly_used_does_not_grow() -> None:
    scattered = _mapped(64 * HUGE)
    with huge_pages():
        sparse = _mapped(64 * HUGE)
        before = _rollup("Rss")
        for start in range(0, 64 * HUGE, HUGE):
            scattered[start] = sparse[start] = 1
        inside = _filled()
    assert _rollup("Rss") - before < 64 * HUGE
    assert inside[SIZE - 1] == 255


@pytest.mark.parametrize("said", ["[always] madvise never\n", "always madvise [never]\n", None])
def test_nothing_is_moved_unless_the_system_is_set_to_madvise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None
) -> None:
    asked = []
    if said is not None:
        (tmp_path / "enabled").write_text(said)
    monkeypatch.setattr(module, "HUGE_PAGES", tmp_path)
    monkeypatch.setattr(module.ctypes, "CDLL", lambda name: asked.append(name))
    with huge_pages():
        entered = True
    assert entered and not asked


@pytest.fixture
def on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes huge pages available on request; returns a file in place of the process's memory map."""
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    (tmp_path / "hpage_pmd_size").write_text("2097152\n")
    monkeypatch.setattr(module, "HUGE_PAGES", tmp_path)
    monkeypatch.setattr(module, "MAPS", tmp_path / "maps")
    return tmp_path / "maps"


def test_an_error_inside_goes_through(on_demand: Path) -> None:
    on_demand.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot load"), huge_pages():
        raise ValueError("cannot load")


def test_a_map_that_is_hidden_is_no_error(on_demand: Path) -> None:
    with huge_pages():
        pass
    assert not on_demand.exists() and module._areas() == []


def test_areas_are_memory_of_no_file(on_demand: Path) -> None:
    on_demand.write_bytes(
        b"1000-2000 rw-p 00000000 00:00 0 \n"
        b"2000-3000 rw-p 00000000 08:01 99 /tmp/caf\xe9\x0c.bin\n"
        b"3000-4000 r--p 00000000 00:00 0 \n"
        b"5000-6000 rw-p 00000000 00:00 0                  [heap]\n"
        b"6000-7000 rw-p 00000000 00:00 0                  [stack]\n"
        b"7000-8000 rw-p 00000000 00:00 0                  [anon: weights]\n"
    )
    assert module._areas() == [(0x1000, 0x2000), (0x5000, 0x6000), (0x7000, 0x8000)]


areas = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)).map(lambda part: (part[0], sum(part))), max_size=5)


@given(areas, areas)
def test_what_is_new_is_what_was_not_there(after: list[tuple[int, int]], before: list[tuple[int, int]]) -> None:
    def cells(spans: list[tuple[int, int]]) -> set[int]:
        return {cell for start, end in spans for cell in range(start, end)}

    found = module._beyond(after, before)
    assert cells(found) == cells(after) - cells(before)
    assert all(start < end for start, end in found)
