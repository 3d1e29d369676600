"""Backends whose builders crash, hang, fill the disk or raise errors."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from pathlib import Path

from edgekit.engine.backend import BuildOptions, BuildResult
from edgekit.engine.null import Null
from edgekit.errors import BackendUnavailable, BuildError, GraphError


class Segfaults(Null):
    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        (folder / "engine.half").write_bytes(b"x" * 1000)
        print("fusing attention", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
        raise AssertionError


class Aborts(Null):
    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        os.abort()


class RunsOutOfMemory(Null):
    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Exits(Null):
    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        for line in range(40):
            print(f"step {line}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(3)


class Raises(Null):
    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        raise ZeroDivisionError("a bug in the builder")


class Refuses(Null):
    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        raise GraphError("operator 'Odd' is not supported", hint="replace it")


class NotInstalled(Null):
    def require(self) -> None:
        raise BackendUnavailable("needs libfoo", hint="pip install foo")


class FindsTheDiskFull(Null):
    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "engine.json"))


class FillsTheDisk(Null):
    """Writes until the disk is full, and crashes."""

    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        with (folder / "engine.bin").open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        raise AssertionError


class FillsTheDiskInItsOwnWords(FillsTheDisk):
    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        try:
            return super().build(graph, folder, options)
        except OSError as e:
            raise BuildError("the library failed: bad stream") from e


class FillsTheDiskAndCrashes(FillsTheDisk):
    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        try:
            return super().build(graph, folder, options)
        except OSError:
            os.kill(os.getpid(), signal.SIGBUS)
            raise


class Forgets(Null):
    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        return BuildResult(engine="engine.bin", files=("engine.bin",), layers={}, backend_version="1")


class Sleeps(Null):
    """Writes its process id to a file next to the graph, starts a child process, and takes a minute."""

    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        print("sleeping", flush=True)
        (folder / "engine.half").write_bytes(b"x")
        note = graph.with_suffix(".pid.new")
        note.write_text(str(os.getpid()))
        note.rename(graph.with_suffix(".pid"))
        time.sleep(60)
        raise AssertionError
