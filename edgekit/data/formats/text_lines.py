"""Reads text files line by line, with errors that name the line."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgekit.data.files import require_no_pointer
from edgekit.errors import DataError

__all__ = [
    "Line",
    "file_bytes",
    "looks_like_html",
    "names_in",
    "raw_lines",
    "text_line_at",
    "text_lines",
    "utf8_bytes",
    "without_numbers",
]

_MAX_LINE_BYTES = 1 << 20
_PART_BYTES = 1 << 22
# A row of a table is read alone, at random.
_FIRST_BYTES = 1 << 12
_NUMBERED = re.compile(r"(\d{1,5})(?:\s*[:,]\s*|\s+)(\S.*)")
_UTF_16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


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
    """Yields the lines of a text file; blank lines are skipped.

    Raises:
        DataError: the file cannot be read, or a line is not UTF-8 or longer than 1 MiB.
    """
    return (line for line in raw_lines(path) if line.text.strip())


def raw_lines(path: Path, *, line: int = 1, offset: int = 0) -> Iterator[Line]:
    """Yields all lines of a text file, from the line with this number and byte offset.

    The text is UTF-8, or UTF-16 with a byte order mark, as Excel and PowerShell write it. Lines end as on Unix,
    Windows or classic Mac OS.

    Raises:
        DataError: as `text_lines`.
    """
    try:
        with path.open("rb") as file:
            encoding = _UTF_16.get(file.read(2), "utf-8")
            file.seek(offset)
            for number, raw in enumerate(_split(file, encoding, path, line), line):
                if not offset:
                    require_no_pointer(raw, path)
                yield Line(number, offset, _decoded(raw, encoding, path, number))
                offset += len(raw)
    except (OSError, ValueError) as e:  # a ValueError of a zero byte in the name
        raise DataError(f"{path}: expected a text file, got: {getattr(e, 'strerror', None) or e}") from e


def text_line_at(path: Path, line: int, offset: int) -> str:
    """Reads the line at a position that `text_lines` returned; empty if the file has become shorter.

    Raises:
        DataError: the file cannot be read, or has changed so that no text begins at the offset.
    """
    found = next(raw_lines(path, line=line, offset=offset), None)
    return found.text if found is not None else ""


def names_in(path: Path) -> tuple[str, ...]:
    """Reads class names from a file, one per line, without the numbers that `without_numbers` removes.

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
    return without_numbers(tuple(first))


def without_numbers(names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns names without their numbers, if each begins with its own, from 0 on: ``0 cat``, ``1: dog``.

    TensorFlow Lite's label files have them. Names that are equal without numbers keep them.
    """
    numbered = [_NUMBERED.fullmatch(name) for name in names]
    plain = tuple(found[2] for i, found in enumerate(numbered) if found and int(found[1]) == i)
    return plain if 1 < len(names) == len(set(plain)) else names


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
    except (OSError, ValueError) as e:
        raise DataError(f"{path}: expected a readable file, got: {getattr(e, 'strerror', None) or e}") from e
    if left <= 0:
        raise DataError(f"{path}: expected at most {max_bytes:,} bytes, got more")
    require_no_pointer(parts[0] if parts else b"", path)
    return b"".join(parts)


def utf8_bytes(content: bytes) -> bytes:
    """Returns a text as UTF-8 without a byte order mark; UTF-16 is recognized by its mark."""
    encoding = _UTF_16.get(content[:2])
    if encoding is None:
        return content.removeprefix(codecs.BOM_UTF8)
    return content[2:].decode(encoding, "replace").encode()


def looks_like_html(content: bytes) -> bool:
    """Whether ``content`` is an HTML page, which servers often return in place of a missing file."""
    start = content[:256].removeprefix(codecs.BOM_UTF8).lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html"))


def _split(file: IO[bytes], encoding: str, path: Path, number: int) -> Iterator[bytes]:
    """Yields the lines from the file's position, with their ends; ``number`` is that of the first."""
    rest, size, more = b"", _FIRST_BYTES, True
    while more:
        block = file.read(size)
        more, size = bool(block), min(2 * size, _MAX_LINE_BYTES)
        lines = _lines_of(rest + block, encoding)
        # The last line may go on in the next block, where a line feed may also follow its carriage return.
        rest = lines.pop() if lines and more else b""
        for raw in lines:
            _check_length(raw, path, number)
            yield raw
            number += 1
        _check_length(rest, path, number)


def _check_length(raw: bytes, path: Path, number: int) -> None:
    if len(raw) > _MAX_LINE_BYTES:
        raise DataError(f"{path}, line {number}: expected at most {_MAX_LINE_BYTES:,} bytes in a line, got more")


def _lines_of(content: bytes, encoding: str) -> list[bytes]:
    """Splits a text behind line feeds and carriage returns, which end one line if they stand together."""
    if encoding == "utf-8":
        return content.splitlines(keepends=True)
    import numpy as np  # a cfg file is read without it

    units = np.frombuffer(content, "<u2" if encoding == "utf-16-le" else ">u2", len(content) // 2)
    feeds, returns = units == ord("\n"), units == ord("\r")
    returns[:-1] &= ~feeds[1:]
    ends = (2 * np.flatnonzero(feeds | returns) + 2).tolist()
    parts = [content[start:end] for start, end in zip([0, *ends], [*ends, len(content)], strict=True)]
    return parts if parts[-1] else parts[:-1]


def _decoded(raw: bytes, encoding: str, path: Path, number: int) -> str:
    if number == 1:
        if looks_like_html(raw):
            raise DataError(f"{path}: expected a text file, got a web page", hint="download the file itself")
        raw = raw[2:] if encoding in _UTF_16.values() else raw.removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode(encoding).rstrip("\r\n")
    except UnicodeDecodeError as e:
        byte = f"0x{raw[e.start]:02x}"
        raise DataError(
            f"{path}, line {number}: expected {encoding.upper()} text, got the byte {byte} at {e.start + 1}",
            hint="if it is a text, save it as UTF-8" if encoding == "utf-8" else "",
        ) from e
