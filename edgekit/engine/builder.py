"""Runs a backend's builder in a child process, so that a crash does not affect the caller."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

import edgekit.errors
from edgekit.arguments import is_on_command_line
from edgekit.engine.backend import BuildOptions, BuildResult
from edgekit.engine.child import Failure, Request, Response
from edgekit.engine.table import entry_of
from edgekit.errors import BuildError, EdgeKitError
from edgekit.storage import free_bytes, is_storage, named_place, storage_error
from edgekit.text import json_bytes, json_value

__all__ = ["engine_from_graph"]

LOG_LINES = 15
TERM_TIMEOUT_S = 2.0
LOW_SPACE_BYTES = 16 * 2**20
MIN_SPACE_BYTES = 2**16


def engine_from_graph(
    graph: Path, folder: Path, target: str, options: BuildOptions, *, timeout_s: float | None = None
) -> BuildResult:
    """Builds an engine from an ONNX file.

    Args:
        graph: the ONNX file.
        folder: an existing folder for the engine's files; unchanged if the build fails.
        target: name of the backend.
        options: the builder's options.
        timeout_s: timeout; None: no limit.

    Returns:
        The result, including the duration and the peak memory of the child process.

    Raises:
        BuildError: the builder crashed, was killed, timed out or failed; with the last lines of its log.
        EdgeKitError: any error that the backend raises, such as `GraphError` or `BackendUnavailable`.
    """
    entry = entry_of(target).backend
    graph, folder = Path(graph).resolve(), Path(folder).resolve()
    try:
        with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as name:
            scratch = Path(name)
            made = scratch / "engine"
            made.mkdir()
            # Relative to the child's folder: another part of the path may hold bytes that are not UTF-8.
            request = Request(
                parent=os.getpid(),
                backend=entry,
                graph=os.path.relpath(graph, scratch),
                folder=os.path.relpath(made, scratch),
                options=options,
                on_command_line=is_on_command_line(),
            )
            result = _run(target, scratch, request, timeout_s)
            _collect(target, result, made, folder)
    except OSError as e:
        if is_storage(e):
            raise storage_error(e, folder) from e
        raise
    return result


def _run(target: str, scratch: Path, request: Request, timeout_s: float | None) -> BuildResult:
    request_file, response_file, log = scratch / "request.json", scratch / "response.json", scratch / "build.log"
    request_file.write_bytes(json_bytes(request))
    command = [sys.executable, "-m", "edgekit.engine.child", str(request_file), str(response_file)]
    with _child(command, scratch, log) as process:
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise BuildError(
                f"building for '{target}' took longer than {timeout_s:g} s and was stopped{_tail(log)}",
                hint="increase the timeout, or build on a faster machine",
            ) from None
    response = _read_response(response_file)
    if code == 0 and response.result:
        return response.result
    failure = _error(response.failure, _space_hint(log)) if response.failure else _crash(target, code, log)
    # With a full disk, the child may fail to report the cause, and libraries seldom report it: OpenVINO deletes what it
    # wrote and reports an "iostream error". An engine is about as large as its graph.
    disk_full = free_bytes(log) < max(MIN_SPACE_BYTES, os.path.getsize(scratch / request.graph))
    if type(failure) is BuildError and (code >= 0 or -code == signal.SIGBUS) and disk_full:
        raise storage_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), scratch) from failure
    raise failure


@contextmanager
def _child(command: list[str], scratch: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Starts the child process in its own process group; ends it if the context exits early (Ctrl-C, timeout)."""
    # Runs in an empty folder with our import path, so that a file onnx.py in the user's current folder is not imported.
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=scratch,
            env=environment,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _terminate(process)


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """Ends the process, if it still runs, and all its children, even on a second Ctrl-C."""
    if process.poll() is not None:
        return
    try:
        _signal_group(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(TERM_TIMEOUT_S)
    finally:
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _read_response(file: Path) -> Response:
    try:
        response: Response = json_value(file.read_bytes(), type=Response)
    except (FileNotFoundError, msgspec.DecodeError):
        return Response()  # the process ended before or while it wrote the file
    return response


def _error(failure: Failure, space_hint: str) -> EdgeKitError:
    kind = getattr(edgekit.errors, failure.error, None)
    if not (isinstance(kind, type) and issubclass(kind, EdgeKitError)):
        kind = BuildError
    if issubclass(kind, BuildError):
        # A library that cannot write a file reports it in its own way, or not at all.
        return kind(failure.message, hint=failure.hint or space_hint, nodes=failure.nodes)
    return kind(failure.message, hint=failure.hint)


def _crash(target: str, code: int, log: Path) -> BuildError:
    hint = _space_hint(log)
    if code >= 0:
        return BuildError(f"the builder for '{target}' failed with exit code {code}{_tail(log)}", hint=hint)
    name = _signal_name(-code)
    if -code == signal.SIGKILL:
        hint = "the system probably ran out of memory: close programs, add swap or build on another machine"
    return BuildError(f"the builder for '{target}' was ended by {name}{_tail(log)}", hint=hint)


def _space_hint(log: Path) -> str:
    free = free_bytes(log)
    place = named_place(log.parent.parent)
    return f"only {free:,} bytes are free for {place}: make room" if free < LOW_SPACE_BYTES else ""


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({signal.strsignal(number)})"
    except ValueError:
        return f"signal {number}"


def _tail(log: Path) -> str:
    """Returns the last lines of the log, indented; empty if the log is empty."""
    with log.open(encoding="utf-8", errors="replace") as lines:
        last = deque((line.rstrip() for line in lines if line.strip()), maxlen=LOG_LINES)
    return "; the last lines of its log:\n" + "\n".join(f"  {line}" for line in last) if last else ""


def _collect(target: str, result: BuildResult, made: Path, folder: Path) -> None:
    """Moves the built files into the folder."""
    missing = [name for name in {result.engine, *result.files} if not (made / name).is_file()]
    if missing:
        raise BuildError(f"the builder for '{target}' did not write {', '.join(sorted(missing))}, which it reported")
    for name in result.files:
        place = folder / name
        if place.is_dir():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(place))
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made / name, place)
