"""Text files of data sets, a line at a time, with errors that name the line."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import DataError

__all__ = ["Line", "file_bytes", "looks_like_html", "names_in", "text_line_at", "text_lines"]

_LONGEST_LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class Line:
    """One line of a file.

    Attributes:
        number: from 1.
        offset: where it begins in the file, in bytes.
        text: without the end of the line.
    """

    number: int
    offset: int
    text: str


def text_lines(path: Path) -> Iterator[Line]:
    """The lines of a UTF-8 file, those left out that hold only spaces.

    Raises:
        DataError: the file cannot be read, or a line is not UTF-8 or longer than a megabyte.
    """
    offset = 0
    try:
        with path.open("rb") as file:
            number = 0
            while raw := file.readline(_LONGEST_LINE_BYTES + 1):
                number += 1
                text = _decoded(raw, path, number)
                if text.strip():
                    yield Line(number, offset, text)
                offset += len(raw)
    except OSError as e:
        raise DataError(f"{path}: expected a text file, got: {e.strerror or e}") from e


def text_line_at(path: Path, line: int, offset: int) -> str:
    """The text of a line whose number and offset `text_lines` has told.

    Raises:
        DataError: the file cannot be read, or was changed since so that no text begins there.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            raw = file.readline(_LONGEST_LINE_BYTES + 1)
    except OSError as e:
        raise DataError(f"{path}: expected a text file, got: {e.strerror or e}") from e
    return _decoded(raw, path, line)


def names_in(path: Path) -> tuple[str, ...]:
    """Names of classes in a file, one a line.

    Raises:
        DataError: the file cannot be read, holds no name, or one twice.
    """
    first: dict[str, int] = {}
    for line in text_lines(path):
        name = line.text.strip()
        if name in first:
            raise DataError(f"{path}, line {line.number}: expected another name than line {first[name]}, got '{name}'")
        first[name] = line.number
    if not first:
        raise DataError(f"{path}: expected names of classes, one a line, got none")
    return tuple(first)


def file_bytes(path: Path, most: int) -> bytes:
    """The whole file.

    Raises:
        DataError: it cannot be read, or is longer than ``most``.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as e:
        raise DataError(f"{path}: expected a file that can be read, got: {e.strerror or e}") from e
    if len(content) > most:
        raise DataError(f"{path}: expected at most {most:,} bytes, got more")
    return content


def looks_like_html(content: bytes) -> bool:
    """Whether it is a web page: what one gets when a server answers with a page in place of the file."""
    start = content[:256].removeprefix(codecs.BOM_UTF8).lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html"))


def _decoded(raw: bytes, path: Path, number: int) -> str:
    if len(raw) > _LONGEST_LINE_BYTES:
        raise DataError(f"{path}, line {number}: expected at most {_LONGEST_LINE_BYTES:,} bytes in a line, got more")
    if number == 1:
        if looks_like_html(raw):
            raise DataError(f"{path}: expected a text file, got a web page", hint="download the file itself")
        raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode().rstrip("\r\n")
    except UnicodeDecodeError as e:
        byte = f"0x{raw[e.start]:02x}"
        raise DataError(f"{path}, line {number}: expected UTF-8 text, got the byte {byte} at {e.start + 1}") from e
