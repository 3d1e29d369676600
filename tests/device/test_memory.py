"""Freed memory goes back to the system where the C library can be asked, and nothing happens where it cannot."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from edgekit.device import memory


def test_what_was_freed_is_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    library = SimpleNamespace(malloc_trim=lambda kept: asked.append(kept.value))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    memory.return_freed_memory()
    assert asked == [0]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    memory.return_freed_memory()


def test_this_one_takes_the_call() -> None:
    memory.return_freed_memory()
