"""A mapped file that becomes shorter while a command reads it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.cli.shortened_files import _Mapped, _reason

START = """
import hashlib, mmap, os, sys, threading
from edgekit.cli import main as module
path = sys.argv[1]
file = open(path, "r+b")
content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
def read(**options):
    os.truncate(path, 100)
    {read}
module.cli.main = read
sys.exit(module.main([]))
"""
READS = {
    "with the lock of the interpreter": "bytes(content)",
    "without it": "hashlib.sha256(content)",
    "in another thread": "t = threading.Thread(target=hashlib.sha256, args=(content,)); t.start(); t.join()",
}


def run(read: str, file: Path) -> subprocess.CompletedProcess[str]:
    file.write_bytes(bytes(1 << 20))
    command = [sys.executable, "-c", START.format(read=read), str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_file_that_becomes_shorter_is_named(tmp_path: Path, read: str) -> None:
    ended = run(read, tmp_path / "model.onnx.data")
    assert ended.returncode == 1
    message, hint = ended.stderr.splitlines()
    assert message.startswith(f"error: {tmp_path / 'model.onnx.data'}: expected a file that stays the same")
    assert hint.startswith("hint: run the command again")


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_other_bus_errors_end_the_process_as_before(tmp_path: Path) -> None:
    ended = run("os.kill(os.getpid(), 7)", tmp_path / "model.onnx.data")
    assert (ended.returncode, ended.stderr) == (-signal.SIGBUS, "")


def test_a_page_that_the_file_still_has_is_the_disk_s_fault(tmp_path: Path) -> None:
    (tmp_path / "m.data").write_bytes(bytes(8192))
    message, hint = _reason(_Mapped(str(tmp_path / "m.data"), 4096))
    assert message.endswith("a part of the file can be neither read nor written") and "make room" in hint
    (tmp_path / "m.data").write_bytes(bytes(4096))
    assert "became shorter" in _reason(_Mapped(str(tmp_path / "m.data"), 4096))[0]


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_the_handler_is_gone_afterwards(tmp_path: Path) -> None:
    code = "from edgekit.cli.main import main; main(['version']); import os; os.kill(os.getpid(), 7)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGBUS
    assert os.fsdecode(ended.stderr) == ""
