"""The child process that runs a builder: ``python -m edgekit.engine.child REQUEST RESPONSE``; see `builder.py`."""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path

import msgspec

from edgekit.arguments import on_command_line
from edgekit.device.cpu import peak_memory_bytes
from edgekit.engine.backend import BuildOptions, BuildResult, backend_at
from edgekit.engine.parent import end_with_parent
from edgekit.errors import BuildError, EdgeKitError
from edgekit.garbage_collection import few_full_collections
from edgekit.storage import is_storage, storage_error

__all__ = ["Failure", "Request", "Response", "main"]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A build request.

    Attributes:
        parent: process id of the parent; this process ends when the parent ends.
        backend: the backend, as ``module:attribute``.
        graph: the ONNX file, relative to this process's folder.
        folder: output folder of the engine's files, relative to it.
        options: the builder's options.
        on_command_line: how messages name arguments; see `edgekit.arguments`.
    """

    parent: int
    backend: str
    graph: str
    folder: str
    options: BuildOptions
    on_command_line: bool


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A serialized `EdgeKitError`: its class, message and hint, and the nodes of a `BuildError`."""

    error: str
    message: str
    hint: str
    nodes: tuple[str, ...] = ()


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """The result or the failure of a build; neither if the process crashed or raised an unexpected exception."""

    result: BuildResult | None = None
    failure: Failure | None = None


def main(arguments: list[str]) -> int:
    """Builds an engine as requested and writes the response; unexpected exceptions leave a traceback in the log."""
    request = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=Request)
    end_with_parent(request.parent)
    with on_command_line(request.on_command_line):
        response = _built(request)
    Path(arguments[1]).write_bytes(msgspec.json.encode(response))
    return 0 if response.result else 1


def _built(request: Request) -> Response:
    start = time.perf_counter()
    try:
        backend = backend_at(request.backend)
        backend.require()
        with few_full_collections():
            result = backend.build(Path(request.graph), Path(request.folder), request.options)
    except EdgeKitError as e:
        nodes = e.nodes if isinstance(e, BuildError) else ()
        return Response(failure=Failure(error=type(e).__name__, message=e.message, hint=e.hint, nodes=nodes))
    except OSError as e:
        if not is_storage(e):
            raise
        error = storage_error(e, Path(request.folder).resolve())
        return Response(failure=Failure(error=type(error).__name__, message=error.message, hint=error.hint))
    seconds = time.perf_counter() - start
    return Response(result=msgspec.structs.replace(result, seconds=seconds, peak_memory_bytes=peak_memory_bytes()))


if __name__ == "__main__":
    status = main(sys.argv[1:])
    gc.freeze()  # as in `edgekit.__main__`
    sys.exit(status)
