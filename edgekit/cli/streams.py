"""Standard output and error that are closed, full, without a reader, or in an encoding with few characters."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TYPE_CHECKING

from edgekit.storage import why_no_room
from edgekit.text import escaped

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["discard_output", "escape_what_streams_lack", "output_failure", "watch_streams"]

_PLAIN = {
    "✓": "+", "✗": "x", "·": "-", "…": "...", "×": "x", "–": "-", "—": "-", "→": "->", "±": "+/-", "µ": "u", "²": "^2",
}  # fmt: skip


def escape_what_streams_lack() -> None:
    """Lets the streams write characters that their encoding lacks as escapes, instead of failing."""
    codecs.register_error("edgekit", _replacement)
    for stream in (sys.stdout, sys.stderr):
        # A program that calls `main` may have put another kind of object there.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="edgekit")


def _replacement(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character) or escaped(character) for character in lacking), error.end


class _Watched(io.FileIO):
    """A file that remembers why it could not be written: the error alone does not say which file it is about."""

    failure: OSError | None = None

    def write(self, content: ReadableBuffer, /) -> int:
        try:
            return super().write(content)
        except OSError as e:
            self.failure = e
            raise


class _NeverFull(io.FileIO):
    """A file that drops what does not fit on its disk: notes and progress are no reason to end a command."""

    def write(self, content: ReadableBuffer, /) -> int:
        try:
            return super().write(content)
        except OSError as e:
            if why_no_room(e):
                return memoryview(content).nbytes
            raise


def watch_streams() -> None:
    """Lets `output_failure` know of errors of standard output, and opens the standard streams that are closed.

    Standard error drops what does not fit on its disk.

    Otherwise a file of ours gets the number of a closed stream. Writing to it still fails, as it should: it is open for
    the other direction.
    """
    while (descriptor := os.open(os.devnull, os.O_RDONLY)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    errors = sys.stderr
    if errors is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    elif isinstance(errors, io.TextIOWrapper) and errors is sys.__stderr__:
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(_NeverFull(errors.fileno(), "w", closefd=False)),
            encoding=errors.encoding,
            errors=errors.errors,
            line_buffering=True,
            write_through=errors.write_through,
        )
    stream = sys.stdout
    if stream is None:
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(_Watched(1, "w", closefd=False)), encoding="utf-8")
    # A program that calls `main`, or a test, may have put another object there.
    elif isinstance(stream, io.TextIOWrapper) and stream is sys.__stdout__:
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Watched(stream.fileno(), "w", closefd=False)),
            encoding=stream.encoding,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )


def output_failure() -> OSError | None:
    """Returns the error with which writing to standard output failed, or None."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, _Watched) else None


def discard_output() -> None:
    """Lets standard output discard what it holds; otherwise Python fails to write it again when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
