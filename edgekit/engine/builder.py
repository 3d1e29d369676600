"""Runs a backend's builder in a process of its own, so that one that crashes takes nothing else with it."""

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
from edgekit.engine.backend import BuildOptions, BuildResult
from edgekit.engine.child import Answer, Failure, Request
from edgekit.engine.table import entry_of
from edgekit.errors import BuildError, EdgeKitError
from edgekit.storage import free_bytes, is_storage, named_place, storage_error

__all__ = ["engine_from_graph"]

LOG_LINES = 15
TERM_PATIENCE_S = 2.0
LITTLE_ROOM_BYTES = 16 * 2**20
LEAST_ROOM_BYTES = 2**16


def engine_from_graph(
    graph: Path, folder: Path, target: str, options: BuildOptions, *, timeout_s: float | None = None
) -> BuildResult:
    """Builds the engine of an ONNX file.

    Args:
        graph: the ONNX file.
        folder: an existing folder, which gets the engine's files, or nothing if the build fails.
        target: name of the backend.
        options: what the builder is told.
        timeout_s: how long it may take; None is as long as it likes.

    Returns:
        What was built, with the time it took and the most memory its process held.

    Raises:
        BuildError: the builder crashed, was killed, took too long or failed; with the last lines of its log.
        EdgeKitError: whatever the backend itself raises, such as `GraphError` or `BackendUnavailable`.
    """
    entry = entry_of(target).backend
    graph, folder = Path(graph).resolve(), Path(folder).resolve()
    try:
        with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as name:
            scratch = Path(name)
            made = scratch / "engine"
            made.mkdir()
            request = Request(parent=os.getpid(), backend=entry, graph=str(graph), folder=str(made), options=options)
            result = _run(target, scratch, request, timeout_s)
            _collect(target, result, made, folder)
    except OSError as e:
        if is_storage(e):
            raise storage_error(e, folder) from e
        raise
    return result


def _run(target: str, scratch: Path, request: Request, timeout_s: float | None) -> BuildResult:
    asked, answered, log = scratch / "request.json", scratch / "answer.json", scratch / "build.log"
    asked.write_bytes(msgspec.json.encode(request))
    command = [sys.executable, "-m", "edgekit.engine.child", str(asked), str(answered)]
    with _child(command, scratch, log) as process:
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise BuildError(
                f"building for '{target}' took longer than {timeout_s:g} s and was stopped{_tail(log)}",
                hint="allow it more time, or build on a faster machine",
            ) from None
    answer = _answer(answered)
    if code == 0 and answer.result:
        return answer.result
    failure = _error(answer.failure, _room_hint(log)) if answer.failure else _death(target, code, log)
    # It may not have had the room to say what it lacked, and libraries seldom do: OpenVINO takes back what it wrote and
    # tells of an "iostream error". An engine is about as large as its graph.
    lacks_room = free_bytes(log) < max(LEAST_ROOM_BYTES, os.path.getsize(request.graph))
    if type(failure) is BuildError and (code >= 0 or -code == signal.SIGBUS) and lacks_room:
        raise storage_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), scratch) from failure
    raise failure


@contextmanager
def _child(command: list[str], scratch: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process, in a group of its own, which is ended when the context is left early (Ctrl-C, time-out)."""
    # It works in an empty folder and imports from where we do: a file onnx.py where the user stands is not ours.
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
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process, if it still runs, and all that it has started; a second Ctrl-C does not keep it alive."""
    if process.poll() is not None:
        return
    try:
        _signal_group(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(TERM_PATIENCE_S)
    finally:
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _answer(file: Path) -> Answer:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Answer)
    except (FileNotFoundError, msgspec.DecodeError):
        return Answer()  # it died before it could say anything, or in the middle of it


def _error(failure: Failure, room: str) -> EdgeKitError:
    kind = getattr(edgekit.errors, failure.error, None)
    if not (isinstance(kind, type) and issubclass(kind, EdgeKitError)):
        kind = BuildError
    # A library that cannot write says so in words of its own, if at all.
    return kind(failure.message, hint=failure.hint or (room if kind is BuildError else ""))


def _death(target: str, code: int, log: Path) -> BuildError:
    hint = _room_hint(log)
    if code >= 0:
        return BuildError(f"the builder for '{target}' failed with exit code {code}{_tail(log)}", hint=hint)
    name = _signal_name(-code)
    if -code == signal.SIGKILL:
        hint = "the system kills what needs more memory than there is: close programs, add swap or build elsewhere"
    return BuildError(f"the builder for '{target}' was ended by {name}{_tail(log)}", hint=hint)


def _room_hint(log: Path) -> str:
    free = free_bytes(log)
    place = named_place(log.parent.parent)
    return f"only {free:,} bytes are free for {place}: make room" if free < LITTLE_ROOM_BYTES else ""


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({signal.strsignal(number)})"
    except ValueError:
        return f"signal {number}"


def _tail(log: Path) -> str:
    """The last lines of the log, indented, or nothing if it has none."""
    with log.open(encoding="utf-8", errors="replace") as lines:
        last = deque((line.rstrip() for line in lines if line.strip()), maxlen=LOG_LINES)
    return "; the last lines of its log:\n" + "\n".join(f"  {line}" for line in last) if last else ""


def _collect(target: str, result: BuildResult, made: Path, folder: Path) -> None:
    """Moves what was built into the folder."""
    missing = [name for name in {result.engine, *result.files} if not (made / name).is_file()]
    if missing:
        raise BuildError(f"the builder for '{target}' says it wrote {', '.join(sorted(missing))}; it did not")
    for name in result.files:
        place = folder / name
        if place.is_dir():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(place))
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made / name, place)
