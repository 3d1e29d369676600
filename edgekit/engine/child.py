"""The process that a builder runs in, ``python -m edgekit.engine.child REQUEST ANSWER``; see `builder.py`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

import msgspec

from edgekit.device.cpu import peak_memory_bytes
from edgekit.engine.backend import BuildOptions, BuildResult, backend_at
from edgekit.errors import EdgeKitError
from edgekit.storage import is_storage, storage_error

__all__ = ["Answer", "Failure", "Request", "main"]

PR_SET_PDEATHSIG = 1  # linux/prctl.h
WATCH_S = 0.5


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be built.

    Attributes:
        parent: process id of whoever asks; its death ends this process.
        backend: ``module:attribute``.
        graph: the ONNX file.
        folder: where the engine's files go.
        options: what the builder is told.
    """

    parent: int
    backend: str
    graph: str
    folder: str
    options: BuildOptions


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """An `EdgeKitError` that travels: its class, message and hint."""

    error: str
    message: str
    hint: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it; neither if the process died or failed in a way that nobody foresaw."""

    result: BuildResult | None = None
    failure: Failure | None = None


def main(arguments: list[str]) -> int:
    """Builds what the request says and writes the answer; any other exception keeps its traceback for the log."""
    request = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=Request)
    _die_with(request.parent)
    start = time.perf_counter()
    try:
        backend = backend_at(request.backend)
        backend.require()
        result = backend.build(Path(request.graph), Path(request.folder), request.options)
    except EdgeKitError as e:
        answer = Answer(failure=Failure(error=type(e).__name__, message=e.message, hint=e.hint))
    except OSError as e:
        if not is_storage(e):
            raise
        lack = storage_error(e, Path(request.folder))
        answer = Answer(failure=Failure(error=type(lack).__name__, message=lack.message, hint=lack.hint))
    else:
        seconds = time.perf_counter() - start
        answer = Answer(result=msgspec.structs.replace(result, seconds=seconds, peak_memory_bytes=peak_memory_bytes()))
    Path(arguments[1]).write_bytes(msgspec.json.encode(answer))
    return 0 if answer.result else 1


def _die_with(parent: int) -> None:
    """Ends this process when its parent ends, so that a killed build leaves no builder behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it died before the signal was asked for
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
