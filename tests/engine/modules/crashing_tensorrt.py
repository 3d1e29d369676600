"""TensorRT-RTX backends whose builder crashes, hangs or runs out of memory during a build."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.engine.backend import BuildOptions, BuildResult
from edgekit.engine.tensorrt import backend as tensorrt
from edgekit.engine.tensorrt import network as tensorrt_network
from edgekit.engine.tensorrt.backend import TensorRtRtx
from edgekit.engine.tensorrt.log import builder_log

AT_WORK = "Compiler backend is used during engine build"


class _Interrupted(TensorRtRtx):
    """Calls a function from the logger as soon as the library reports that it builds."""

    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        @contextmanager
        def log(library: Any) -> Iterator[Any]:
            with builder_log(library) as made:

                class Watch(type(made)):  # type: ignore[misc]
                    def log(watch, severity: Any, text: str) -> None:  # noqa: N805
                        made.log(severity, text)
                        if AT_WORK in text:
                            (folder / "engine.half").write_bytes(b"x")
                            self.interrupt(graph)

                yield Watch()

        tensorrt.builder_log = log
        return super().build(graph, folder, options)

    def interrupt(self, graph: Path) -> None:
        raise NotImplementedError


class Aborts(_Interrupted):
    def interrupt(self, graph: Path) -> None:
        os.abort()


class IsKilledForMemory(_Interrupted):
    """Sends SIGKILL, as the kernel's out-of-memory killer does."""

    def interrupt(self, graph: Path) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class TakesLong(_Interrupted):
    def interrupt(self, graph: Path) -> None:
        time.sleep(60)


class HasNoMemory(TensorRtRtx):
    """Limits the memory to what is used at the start of the build."""

    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        self._library()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        return super().build(graph, folder, options)


class LeavesAttentionWhole(TensorRtRtx):
    """Does not allow the builder to decompose attention."""

    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        tensorrt_network._let_attention_decompose = lambda library, network: None
        return super().build(graph, folder, options)
