"""Reads the records of CSV files, which may span lines, and the numbers in them."""

from __future__ import annotations

import contextlib
import csv
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgekit.data.formats.text_lines import raw_lines
from edgekit.errors import DataError

__all__ = ["Record", "class_name", "is_grouped", "number_from_text", "records", "separator_of"]

# In order of preference: a line of German numbers has more commas than semicolons. A space stands for any white space.
_SEPARATORS = ("\t", ";", ",", " ")
_SAMPLE = 10
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+")
_WHOLE = re.compile(r"([+-]?\d+)[.,]0+")


class Record(NamedTuple):
    """One row.

    Attributes:
        line: number of its first line, from 1.
        offset: byte offset of its first line.
        fields: the fields, without quotes and outer white space.
    """

    line: int
    offset: int
    fields: list[str]


def records(path: Path, separator: str, *, line: int = 1, offset: int = 0) -> Iterator[Record]:
    """Yields the records of a UTF-8 file as the module `csv` reads them; empty ones are skipped.

    Args:
        path: the file.
        separator: the column separator; a space stands for any number of spaces and tabs.
        line: number of the line to begin with.
        offset: byte offset of that line.

    Raises:
        DataError: the file cannot be read, a quote is not closed, or a line is not UTF-8 or too long.
    """
    starts: list[tuple[int, int]] = []

    def texts() -> Iterator[str]:
        for each in raw_lines(path, line=line, offset=offset):
            if each.offset == 0 and re.fullmatch(r"sep=.", each.text.strip()):
                continue  # Excel's own first line
            starts.append((each.number, each.offset))
            yield (" ".join(each.text.split()) if separator == " " else each.text) + "\n"

    reader = csv.reader(texts(), delimiter=separator, skipinitialspace=True, strict=True)
    try:
        for row in reader:
            first, fields = starts[0], [field.strip() for field in row]
            starts.clear()
            if any(fields):
                yield Record(*first, fields)
    except csv.Error as e:
        first = starts[0] if starts else (line, offset)
        raise DataError(f"{path}, line {first[0]}: expected fields separated by '{separator}', got: {e}") from e


def separator_of(path: Path) -> str:
    """Returns the column separator of a file: the one that gives its first rows equal, numeric columns.

    White space separates columns only where nothing else does: sentences beside sentences have it within columns.

    Raises:
        DataError: the file cannot be read.
    """
    fits = {separator: _fit(path, separator) for separator in _SEPARATORS}
    if any(fits[separator].is_regular for separator in _SEPARATORS[:-1]):
        del fits[" "]
    return max(fits, key=fits.__getitem__)


def number_from_text(text: str) -> float | None:
    """Returns the number in a text, with a decimal point or comma; None if there is none, or none finite in float32."""
    if _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    try:
        number = float(text)
    except ValueError:
        return None
    fits = "_" not in text and math.isfinite(number) and abs(number) <= float(np.finfo(np.float32).max)
    return number if fits else None


def is_grouped(text: str) -> bool:
    """Whether a text may be a number with separators of thousands, as in ``1,234``."""
    return _GROUPED.fullmatch(text) is not None


def class_name(text: str) -> str:
    """Returns the name of a class; programs that read whole numbers as floats write ``1.0`` for ``1``."""
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


class _Fit(NamedTuple):
    """How well a separator fits: whether rows have equal lengths, the share of numbers in them, and their columns."""

    is_regular: bool
    numbers: float
    columns: int


def _fit(path: Path, separator: str) -> _Fit:
    rows: list[list[str]] = []
    with contextlib.suppress(DataError):  # it is reported when the rows are read
        rows += (record.fields for record in itertools.islice(records(path, separator), _SAMPLE))
    columns = len(rows[0]) if rows else 0
    fields = [field for row in rows for field in row]
    numbers = sum(number_from_text(field) is not None for field in fields)
    is_regular = columns > 1 and all(len(row) == columns for row in rows)
    return _Fit(is_regular, numbers / max(1, len(fields)) if columns > 1 else 0.0, columns)
