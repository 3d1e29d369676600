"""Reads text files line by line, with errors that name the line."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import DataError

__all__ = ["Line", "file_bytes", "looks_like_html", "names_in", "raw_lines", "text_line_at", "text_lines"]

_MAX_LINE_BYTES = 1 << 20
_PART_BYTES = 1 << 22


@dataclass(frozen=True)
class Line:
    """One line of a file.

    Attributes:
        number: line number, from 1.
        offset: byte offset of the line in the file.
        text: text without the line ending.
    """

    number: int
    offset: int
    text: str


def text_lines(path: Path) -> Iterator[Line]:
    """Yields the lines of a UTF-8 file; blank lines are skipped.

    Raises:
        DataError: the file cannot be read, or a line is not UTF-8 or longer than 1 MiB.
    """
    return (line for line in raw_lines(path) if line.text.strip())


def raw_lines(path: Path, *, line: int = 1, offset: int = 0) -> Iterator[Line]:
    """Yields all lines of a UTF-8 file, from the line with this number and byte offset.

    Raises:
        DataError: as `text_lines`.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            for number in itertools.count(line):
                raw = file.readline(_MAX_LINE_BYTES + 1)
                if not raw:
                    return
                yield Line(number, offset, _decoded(raw, path, number))
                offset += len(raw)
    except OSError as e:
        raise DataError(f"{path}: expected a text file, got: {e.strerror or e}") from e


def text_line_at(path: Path, line: int, offset: int) -> str:
    """Reads the line at a position that `text_lines` returned.

    Raises:
        DataError: the file cannot be read, or has changed so that no text begins at the offset.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            raw = file.readline(_MAX_LINE_BYTES + 1)
    except OSError as e:
        raise DataError(f"{path}: expected a text file, got: {e.strerror or e}") from e
    return _decoded(raw, path, line)


def names_in(path: Path) -> tuple[str, ...]:
    """Reads class names from a file, one per line.

    Raises:
        DataError: the file cannot be read, has no names, or has a duplicate.
    """
    first: dict[str, int] = {}
    for line in text_lines(path):
        name = line.text.strip()
        if name in first:
            raise DataError(
                f"{path}, line {line.number}: expected a unique name, got '{name}', as in line {first[name]}"
            )
        first[name] = line.number
    if not first:
        raise DataError(f"{path}: expected class names, one per line, got none")
    return tuple(first)


def file_bytes(path: Path, max_bytes: int) -> bytes:
    """Reads a whole file.

    Raises:
        DataError: the file cannot be read, or is longer than ``max_bytes``.
    """
    try:
        with path.open("rb") as file:
            # In parts: to read at most 4 GiB at once takes a buffer of 4 GiB.
            parts, left = [], max_bytes + 1
            while left > 0 and (part := file.read(min(left, _PART_BYTES))):
                parts.append(part)
                left -= len(part)
    except OSError as e:
        raise DataError(f"{path}: expected a readable file, got: {e.strerror or e}") from e
    if left <= 0:
        raise DataError(f"{path}: expected at most {max_bytes:,} bytes, got more")
    return b"".join(parts)


def looks_like_html(content: bytes) -> bool:
    """Whether ``content`` is an HTML page, which servers often return in place of a missing file."""
    start = content[:256].removeprefix(codecs.BOM_UTF8).lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html"))


def _decoded(raw: bytes, path: Path, number: int) -> str:
    if len(raw) > _MAX_LINE_BYTES:
        raise DataError(f"{path}, line {number}: expected at most {_MAX_LINE_BYTES:,} bytes in a line, got more")
    if number == 1:
        if looks_like_html(raw):
            raise DataError(f"{path}: expected a text file, got a web page", hint="download the file itself")
        raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode().rstrip("\r\n")
    except UnicodeDecodeError as e:
        byte = f"0x{raw[e.start]:02x}"
        hint = (
            "the file is UTF-16: save it as UTF-8" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ""
        )
        raise DataError(
            f"{path}, line {number}: expected UTF-8 text, got the byte {byte} at {e.start + 1}", hint=hint
        ) from e
