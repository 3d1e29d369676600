from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from edgekit.device import huge_pages as module
from edgekit.device.huge_pages import HUGE, huge_pages

SIZE = 8 * HUGE


def _in_huge_pages() -> int:
    """Bytes of this process in huge pages."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages"))


def _filled() -> mmap.mmap:
    memory = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(bytes(range(256)) * (SIZE // 256))
    return memory


@pytest.mark.skipif(not module._on_demand(), reason="huge pages are not there for the asking")
def test_what_is_allocated_inside_is_moved_and_stays_what_it_was() -> None:
    outside = _filled()
    before = _in_huge_pages()
    with huge_pages():
        inside = _filled()
    moved = _in_huge_pages() - before
    if moved == 0:
        pytest.skip("this kernel does not move pages when it is told to: Linux before 6.1, or memory too scattered")
    assert moved >= SIZE - HUGE  # more, where areas grew together
    assert inside[:] == outside[:]


@pytest.mark.parametrize("said", ["[always] madvise never\n", "always madvise [never]\n", None])
def test_nothing_is_moved_where_nobody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None) -> None:
    asked = []
    file = tmp_path / "enabled"
    if said is not None:
        file.write_text(said)
    monkeypatch.setattr(module, "ENABLED", file)
    monkeypatch.setattr(module.ctypes, "CDLL", lambda name: asked.append(name))
    with huge_pages():
        memory = _filled()
    assert not asked and len(memory) == SIZE


def test_an_error_inside_goes_through(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "enabled"
    file.write_text("always [madvise] never\n")
    monkeypatch.setattr(module, "ENABLED", file)
    with pytest.raises(ValueError, match="cannot load"), huge_pages():
        raise ValueError("cannot load")


def test_areas_are_memory_of_no_file() -> None:
    memory = _filled()
    address = module.ctypes.addressof(module.ctypes.c_char.from_buffer(memory))
    assert any(start <= address and address + SIZE <= end for start, end in module._areas())
    code = module.ctypes.cast(module.ctypes.CDLL(None).madvise, module.ctypes.c_void_p).value
    assert code is not None
    assert not any(start <= code < end for start, end in module._areas())
