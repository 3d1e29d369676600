"""Freed memory is returned to the system if the C library supports it."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgekit.device import cpu as memory


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_what_was_freed_is_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    library = SimpleNamespace(malloc_trim=lambda kept: asked.append(kept.value))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    memory.return_freed_memory()
    assert asked == [0]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def library(name: object) -> SimpleNamespace:
        asked.append(name)
        return SimpleNamespace()

    monkeypatch.setattr(ctypes, "CDLL", library)
    memory.return_freed_memory()
    assert asked == [None]


def test_what_was_freed_leaves_this_process() -> None:
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("this C library has no malloc_trim")
    # Blocks that are too small for a mapping of their own, and one at the top that keeps the heap from shrinking.
    blocks = [bytearray(100_000) for _ in range(2000)]
    top = bytearray(100_000)
    del blocks
    before = resident_bytes()
    memory.return_freed_memory()
    assert before - resident_bytes() > 100_000_000
    assert len(top) == 100_000
