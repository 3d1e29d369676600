"""Adds ``modules`` to the import path: builders run in a child process with the same path."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgekit.engine.table import BACKENDS, Entry

sys.path.insert(0, str(Path(__file__).parent / "modules"))


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """The file of a graph with one convolution and one matrix product."""
    from small_graphs import conv_graph, save

    return save(conv_graph(), tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for an engine."""
    (tmp_path / "engine").mkdir()
    return tmp_path / "engine"


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Registers a backend for the duration of a test; returns its name."""

    def register(name: str, place: str) -> str:
        monkeypatch.setitem(BACKENDS, name, Entry(place))
        return name

    return register


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]
    if not mount or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    yield disk
    subprocess.run(["umount", disk], check=True)
