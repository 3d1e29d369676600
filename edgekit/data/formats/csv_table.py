"""Reads CSV tables: numeric feature columns and one target column."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgekit.data.examples import Choice, Example
from edgekit.data.formats.text_lines import Line, text_line_at, text_lines
from edgekit.data.splits import DRAWN, is_drawn, split_from_name, split_path
from edgekit.errors import DataError, UsageError, nearest
from edgekit.recipe.schema import Task

__all__ = ["CsvTable", "csv_from_path", "is_table"]

_SEPARATORS = (",", ";", "\t")
_MAX_CLASSES = 10_000


@dataclass(frozen=True)
class _Layout:
    """Column layout of a file.

    Attributes:
        separator: column separator.
        header: column names; empty if the first line is a row.
        columns: number of columns.
        target: index of the target column.
    """

    separator: str
    header: tuple[str, ...]
    columns: int
    target: int

    def title(self, column: int) -> str:
        """Name of a column in messages: its header, or its number from 1."""
        return f"column '{self.header[column][:40]}'" if self.header else f"column {column + 1}"


@dataclass
class _Rows:
    """Line numbers and byte offsets of a split's rows."""

    lines: array[int]
    offsets: array[int]


class CsvTable:
    """Rows of a CSV file, read on access; the target is a number, or a class for classification."""

    def __init__(self, path: Path, layout: _Layout, rows: _Rows, labels: tuple[str, ...], task: Task) -> None:
        """Creates the data set from the positions of its rows; ``labels`` is empty for regression."""
        self.name = str(path)
        self.task: Task = task
        self.labels = labels
        self.notes: list[str] = []
        self._path = path
        self._layout = layout
        self._rows = rows
        self._label_index = {label: i for i, label in enumerate(labels)}

    def __len__(self) -> int:
        return len(self._rows.lines)

    def __getitem__(self, index: int) -> Example:
        line, offset = self._rows.lines[index], self._rows.offsets[index]
        where = f"{self._path}, line {line}"
        fields = _fields(text_line_at(self._path, line, offset), self._layout, where)
        features = np.array(_features(fields, self._layout, where), np.float32)
        if self.task != "classify":
            number = _number(fields, self._layout.target, self._layout, where)
            return Example(where, features, np.array([number], np.float32))
        target = fields[self._layout.target]
        if target not in self._label_index:
            raise DataError(f"{where}: expected a class found when the file was opened, got '{target[:40]}'")
        return Example(where, features, self._label_index[target])


def csv_from_path(path: Path, choice: Choice) -> CsvTable:
    """Opens a table: a CSV file, or the file in a folder whose name contains the split (``train.csv``, ``test.csv``).

    Columns are separated by commas, semicolons or tabs. The first line is a header if one of its fields is not a
    number. All feature columns are numeric. The target is a class if the task is ``classify``, or if no task is given
    and the first row's target is not a number; otherwise it is a number. If the file name contains no split, a fifth of
    the rows is the test split, by a hash of the line, so that equal rows are in the same split. A class has the same
    index in the train and the test file.

    Raises:
        UsageError: no column has the target's name.
        DataError: a field is not a finite number, or a row has too many or too few fields; names the line. All rows
            are checked when the file is opened.
    """
    file = _file(path, choice)
    layout = _layout(file, choice)
    task = _task(file, layout, choice)
    declared = split_from_name(file.name) is not None
    rows, texts = _Rows(array("Q"), array("Q")), dict[str, int]()
    for line, fields, where in _lines(file, layout):
        _features(fields, layout, where)
        if task == "classify":
            _count(texts, fields[layout.target], where)
        else:
            _number(fields, layout.target, layout, where)
        if declared or is_drawn(line.text, choice.split):
            rows.lines.append(line.number)
            rows.offsets.append(line.offset)
    if not rows.lines:
        hint = "" if declared else DRAWN
        raise DataError(f"{file}: expected at least one row for the {choice.split} split, got none", hint=hint)
    if task == "classify" and declared:
        _count_other_file(texts, path, choice)
    return CsvTable(file, layout, rows, _labels(texts), task)


def is_table(path: Path) -> bool:
    """Whether the file's second line, or its only one, is a row of at least two numbers."""
    lines = []
    for line in text_lines(path):
        lines.append(line.text)
        if len(lines) == 2:
            break
    fields = lines[-1].split(_separator(lines[-1])) if lines else []
    return len(fields) > 1 and all(map(_is_number, fields))


def _file(path: Path, choice: Choice) -> Path:
    if path.is_dir():
        files = sorted(path.glob("*.csv"))
        if len(files) == 1 and split_from_name(files[0].name) is None:
            return files[0]
    elif split_from_name(path.name) in (choice.split, None):
        return path
    else:
        files = sorted(path.parent.glob(f"*{path.suffix}"))
    return split_path(files, choice.split, f"{path}: CSV files")


def _task(file: Path, layout: _Layout, choice: Choice) -> Task:
    """Returns the requested task; without one, infers it from the first row's target."""
    if choice.task is not None:
        return "classify" if choice.task == "classify" else "regress"
    first = next(_lines(file, layout), None)
    return "regress" if first is None or _is_number(first[1][layout.target]) else "classify"


def _lines(file: Path, layout: _Layout) -> Iterator[tuple[Line, list[str], str]]:
    """Yields line, fields and location of each row."""
    for i, line in enumerate(text_lines(file)):
        where = f"{file}, line {line.number}"
        if i or not layout.header:
            yield line, _fields(line.text, layout, where), where


def _layout(file: Path, choice: Choice) -> _Layout:
    first = next(text_lines(file), Line(1, 0, ""))
    separator = _separator(first.text)
    fields = _split(first.text, separator, f"{file}, line {first.number}")
    if len(fields) < 2:
        raise DataError(f"{file}, line {first.number}: expected at least two columns, got '{first.text[:60]}'")
    # Without a header, the last column of a classification table is the target and may be a word.
    numbers = [_is_number(field) for field in fields]
    headless = all(numbers) or (choice.task == "classify" and choice.target is None and all(numbers[:-1]))
    header = () if headless else tuple(fields)
    target = len(fields) - 1
    if choice.target is not None:
        if choice.target not in header:
            raise UsageError(
                f"{file}: expected a column '{choice.target}', got {'no header' if not header else 'none'}",
                hint=nearest(choice.target, header),
            )
        target = header.index(choice.target)
    return _Layout(separator, header, len(fields), target)


def _separator(text: str) -> str:
    return max(_SEPARATORS, key=text.count)


def _fields(text: str, layout: _Layout, where: str) -> list[str]:
    fields = _split(text, layout.separator, where)
    if len(fields) != layout.columns:
        raise DataError(f"{where}: expected {layout.columns} columns, as in the first line, got {len(fields)}")
    return fields


def _split(text: str, separator: str, where: str) -> list[str]:
    try:
        row = next(csv.reader([text.rstrip("\r\n")], delimiter=separator, skipinitialspace=True, strict=True))
    except (csv.Error, StopIteration) as e:
        raise DataError(f"{where}: expected fields separated by '{separator}', got: {e}") from e
    return [field.strip() for field in row]


def _features(fields: list[str], layout: _Layout, where: str) -> list[float]:
    return [_number(fields, column, layout, where) for column in range(len(fields)) if column != layout.target]


def _number(fields: list[str], column: int, layout: _Layout, where: str) -> float:
    if not _is_number(text := fields[column]):
        raise DataError(
            f"{where}, {layout.title(column)}: expected a number that is finite in float32, got '{text[:40]}'"
        )
    return float(text)


def _is_number(text: str) -> bool:
    try:
        number = float(text)
    except ValueError:
        return False
    return "_" not in text and math.isfinite(number) and abs(number) <= float(np.finfo(np.float32).max)


def _count(classes: dict[str, int], name: str, where: str) -> None:
    if not name:
        raise DataError(f"{where}: expected a class in the target column, got an empty field")
    classes[name] = classes.get(name, 0) + 1
    if len(classes) > _MAX_CLASSES:
        raise DataError(
            f"{where}: expected at most {_MAX_CLASSES:,} classes, got more",
            hint="check that the target column is not numeric",
        )


def _count_other_file(classes: dict[str, int], path: Path, choice: Choice) -> None:
    """Adds the classes of the other split's file, if it exists, so that a class has the same index in both."""
    try:
        file = _file(path, replace(choice, split="train" if choice.split == "test" else "test"))
    except DataError:
        return
    layout = _layout(file, choice)
    for _, fields, where in _lines(file, layout):
        _count(classes, fields[layout.target], where)


def _labels(classes: dict[str, int]) -> tuple[str, ...]:
    if all(map(_is_number, classes)):
        return tuple(sorted(classes, key=float))
    return tuple(sorted(classes))
