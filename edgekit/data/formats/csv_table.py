"""Reads CSV tables: numeric feature columns and one target column."""

from __future__ import annotations

import itertools
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.arguments import argument
from edgekit.data.examples import Choice, Example, Split
from edgekit.data.files import files_in
from edgekit.data.formats.csv_records import (
    Record,
    class_name,
    is_grouped,
    number_from_text,
    records,
    separator_of,
)
from edgekit.data.formats.unsupported import TABLE_OF_IMAGES_HINT, is_table_of_images, unsupported_format
from edgekit.data.images import image_suffixes
from edgekit.data.splits import DRAWN, SPLIT_NAMES, MissingSplit, SplitFile, file_of_split, is_drawn
from edgekit.errors import DataError, UsageError, nearest
from edgekit.recipe.schema import Task

__all__ = ["CsvTable", "csv_from_path", "is_table"]

_MAX_CLASSES = 10_000
_GROUPED_DECIMAL = re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+,\d+|[+-]?\d{1,3}(?:[, ]\d{3})+\.\d+")
_NUMBERING = frozenset({"", "id", "index", "unnamed: 0"})
_MISSING = frozenset({"", "-", "?", "n/a", "na", "nan", "none", "null"})
_TARGET_NAMES = frozenset({"label", "labels", "class", "target"})


@dataclass(frozen=True)
class _Layout:
    """Column layout of a file.

    Attributes:
        separator: column separator.
        header: column names; empty if the first line is a row.
        columns: number of columns, without the empty one behind a separator at the end of the lines.
        target: index of the target column.
    """

    separator: str
    header: tuple[str, ...]
    columns: int
    target: int

    def title(self, column: int) -> str:
        """Name of a column in messages: its header, or its number from 1 without one."""
        named = self.header and self.header[column]
        return f"column '{named[:40]}'" if named else f"column {column + 1}"


@dataclass
class _Rows:
    """Line numbers and byte offsets of a split's rows."""

    lines: array[int]
    offsets: array[int]


class CsvTable:
    """Rows of a CSV file, read on access; the target is a number, or a class for classification."""

    def __init__(
        self,
        path: Path,
        layout: _Layout,
        rows: _Rows,
        labels: tuple[str, ...],
        task: Task,
        *,
        split: Split = "test",
        notes: Sequence[str] = (),
    ) -> None:
        """Creates the data set of a split from the positions of its rows; ``labels`` is empty for regression."""
        self.name = str(path)
        self.split = split
        self.task: Task = task
        self.labels = labels
        self.notes = list(notes)
        self._path = path
        self._layout = layout
        self._rows = rows
        self._label_index = {label: i for i, label in enumerate(labels)}

    def __len__(self) -> int:
        return len(self._rows.lines)

    def __getitem__(self, index: int) -> Example:
        line, offset = self._rows.lines[index], self._rows.offsets[index]
        record = next(records(self._path, self._layout.separator, line=line, offset=offset), None)
        where = f"{self._path}, line {line}"
        if record is None:
            raise DataError(f"{where}: expected the row that was there when the file was opened, got none")
        fields = _checked(record, self._layout, where)
        features = np.array(_features(fields, self._layout, where), np.float32)
        if self.task != "classify":
            number = _number(fields, self._layout.target, self._layout, where)
            return Example(where, features, np.array([number], np.float32))
        target = class_name(fields[self._layout.target])
        if target not in self._label_index:
            raise DataError(f"{where}: expected a class found when the file was opened, got '{target[:40]}'")
        return Example(where, features, self._label_index[target])


def csv_from_path(path: Path, choice: Choice) -> CsvTable:
    """Opens a table: a CSV file, or the file in a folder whose name contains the split (``train.csv``, ``test.csv``).

    Columns are separated by commas, semicolons, tabs or other white space; a field in quotes may contain separators and
    newlines. Numbers have a decimal point or a decimal comma. The first line is a header if one of its fields is not a
    number. All feature columns are numeric. The target is the column called label, class or target, if there is one of
    these, else the last column. It is a class if the task is ``classify``, or if no task is given and the first row's
    target is not a number; otherwise it is a number. If the file name contains no split, a fifth of the rows is the
    test split, by a hash of its fields, so that equal rows are in the same split. A class has the same index in the
    files of all splits; ``1`` and ``1.0`` are one class.

    Raises:
        UsageError: no column has the target's name.
        DataError: the files of the splits have other columns, a field is not a finite number, or a row has too many or
            too few fields; names the line. All rows are checked when the file is opened.
    """
    file, split, notes = _file(path, choice.split)
    layout = _layout(file, choice)
    if layout.columns == 2 and is_table_of_images(layout.header):
        raise DataError(
            f"{file}: expected numbers and a target, got {', '.join(layout.header)}: a table that names images",
            hint=TABLE_OF_IMAGES_HINT,
        )
    if split is not None:
        _require_same_columns(path, layout, file, split, choice)
    notes = [*notes, *_notes_on_target(layout, choice), *_notes_on_numbering(layout)]
    task = _task(file, layout, choice)
    rows, texts = _Rows(array("Q"), array("Q")), dict[str, int]()
    marks = set[str]()
    for record, fields, where in _lines(file, layout):
        _features(fields, layout, where)
        marks |= _decimal_marks(fields, layout)
        if task == "classify":
            _count(texts, fields[layout.target], where)
        else:
            _number(fields, layout.target, layout, where)
        if split is not None or is_drawn(layout.separator.join(record.fields), choice.split):
            rows.lines.append(record.line)
            rows.offsets.append(record.offset)
    if not rows.lines:
        hint = "" if split is not None else DRAWN
        raise DataError(f"{file}: expected at least one row for the {choice.split} split, got none", hint=hint)
    if len(marks) > 1:
        notes.append(
            "numbers have decimal commas and decimal points: a point is no separator of thousands, 1.234 is below 2"
        )
    if task == "classify" and split is not None:
        _count_other_files(texts, path, split, choice)
    return CsvTable(file, layout, rows, _labels(texts), task, split=split or choice.split, notes=notes)


def _decimal_marks(fields: list[str], layout: _Layout) -> set[str]:
    """Returns the decimal marks of a row's features; none where commas separate columns."""
    if layout.separator == ",":
        return set()
    return {mark for i, field in enumerate(fields) if i != layout.target for mark in ".," if mark in field}


def _notes_on_target(layout: _Layout, choice: Choice) -> list[str]:
    """Returns a note where the target is not obvious: a column before the last one, or one without a name."""
    target = layout.title(layout.target)
    if not layout.header:
        return [f"the first line has no names of columns: the target is {target}, the last one"]
    if choice.target is None and layout.target != layout.columns - 1:
        return [f"the target is {target}; {argument('column', like='NAME')} chooses another"]
    return []


def _notes_on_numbering(layout: _Layout) -> list[str]:
    """Returns a note for each feature whose name is that of a row's number: pandas writes one without a name."""
    columns = [i for i, name in enumerate(layout.header) if name.strip().lower() in _NUMBERING and i != layout.target]
    return [f"{layout.title(i)} is read as a feature: remove it if it only numbers the rows" for i in columns]


def is_table(path: Path) -> bool:
    """Whether the second line of the file, or its only one, is a row of numbers; the last field may be a class.

    A text file (``.txt``) whose columns only white space separates is none: YOLO's label files have rows of numbers.
    """
    try:
        separator = separator_of(path)
        first = list(itertools.islice(records(path, separator), 2))
    except DataError:
        return False
    if separator == " " and path.suffix.lower() == ".txt":
        return False
    fields = first[-1].fields if first else []
    numbers = [number_from_text(field) is not None for field in fields]
    return len(numbers) > 1 and all(numbers[:-1]) and (numbers[-1] or len(numbers) > 2)


def _file(path: Path, wanted: Split) -> SplitFile:
    files = files_in(path, ".csv") if path.is_dir() else files_in(path.parent, path.suffix.lower())
    try:
        return file_of_split(path, files, wanted, f"{path}: CSV files")
    except MissingSplit as e:
        other = unsupported_format(path)
        if other is None:
            raise
        raise DataError(f"{path}: expected a table of numbers, got {other.name}", hint=other.hint) from e


def _task(file: Path, layout: _Layout, choice: Choice) -> Task:
    """Returns the requested task; without one, infers it from the first row's target."""
    if choice.task is not None:
        return "classify" if choice.task == "classify" else "regress"
    first = next(_lines(file, layout), None)
    numeric = first is None or number_from_text(first[1][layout.target]) is not None
    return "regress" if numeric else "classify"


def _lines(file: Path, layout: _Layout) -> Iterator[tuple[Record, list[str], str]]:
    """Yields position, fields and location of each row."""
    for i, record in enumerate(records(file, layout.separator)):
        where = f"{file}, line {record.line}"
        if i or not layout.header:
            yield record, _checked(record, layout, where), where


def _layout(file: Path, choice: Choice) -> _Layout:
    separator = separator_of(file)
    start = list(itertools.islice(records(file, separator), 2))
    first = start[0] if start else Record(1, 0, [])
    fields = first.fields
    if len(fields) > 2 and all(record.fields[-1] == "" and len(record.fields) == len(fields) for record in start):
        fields = fields[:-1]  # spreadsheets end lines with a separator if a cell beside the table was used once
    if len(fields) < 2:
        other = unsupported_format(file)
        if other is not None:
            raise DataError(f"{file}: expected a table, got {other.name}", hint=other.hint)
        got = separator.join(fields)[:60]
        hint = "separate columns with commas, semicolons, tabs or spaces" if got else ""
        raise DataError(f"{file}, line {first.line}: expected at least two columns, got '{got}'", hint=hint)
    # Without a header, the last column of a classification table is the target and may be a word.
    numbers = [number_from_text(field) is not None for field in fields]
    headless = all(numbers) or (choice.task == "classify" and choice.target is None and all(numbers[:-1]))
    header = () if headless else tuple(fields)
    named = [i for i, name in enumerate(header) if name.lower() in _TARGET_NAMES]
    target = named[0] if len(named) == 1 else len(fields) - 1
    if choice.target is not None:
        if choice.target not in header:
            raise UsageError(
                f"{file}: expected a column '{choice.target}', got {'no header' if not header else 'none'}",
                hint=nearest(choice.target, header),
            )
        if header.count(choice.target) > 1:
            raise UsageError(f"{file}: expected one column '{choice.target}', got {header.count(choice.target)}")
        target = header.index(choice.target)
    return _Layout(separator, header, len(fields), target)


def _require_same_columns(path: Path, layout: _Layout, file: Path, own: Split, choice: Choice) -> None:
    """Checks the columns against those of the training file; of a file without the target, another would be taken."""
    try:
        train = _file(path, "train")
        expected = _layout(train.path, choice).header if own != "train" and train.split == "train" else ()
    except DataError:
        return  # there is none, or it is read when it is asked for
    if expected and layout.header and layout.header != expected:
        lacks = [name for name in expected if name not in layout.header]
        got = f"none called {', '.join(lacks[:5])}" if lacks else ", ".join(layout.header[:8])
        raise DataError(
            f"{file}: expected the columns of {train.path.name}, got {got}",
            hint=f"rename {train.path.name} to a name without a split, such as table.csv, and give that file: a fifth "
            "of its rows is the test split",
        )


def _checked(record: Record, layout: _Layout, where: str) -> list[str]:
    fields = record.fields
    if len(fields) == layout.columns + 1 and not fields[-1]:
        return fields[:-1]
    if len(fields) != layout.columns:
        got = len(record.fields)
        raise DataError(
            f"{where}: expected {layout.columns} columns, as in the first line, got {got}",
            hint="the first line is the header or a row: remove other lines, and put fields with separators in quotes",
        )
    return fields


def _features(fields: list[str], layout: _Layout, where: str) -> list[float]:
    return [_number(fields, column, layout, where) for column in range(len(fields)) if column != layout.target]


def _number(fields: list[str], column: int, layout: _Layout, where: str) -> float:
    text = fields[column]
    # "1,234" is a thousand where commas separate columns, and a decimal where they do not.
    number = None if layout.separator == "," and is_grouped(text) else number_from_text(text)
    if number is None:
        raise DataError(
            f"{where}, {layout.title(column)}: expected a number that is finite in float32, got '{text[:40]}'",
            hint=_number_hint(fields, layout, column),
        )
    return number


def _number_hint(fields: list[str], layout: _Layout, column: int) -> str:
    text = fields[column]
    if is_table_of_images(layout.header) or any(field.lower().endswith(image_suffixes()) for field in fields):
        return TABLE_OF_IMAGES_HINT
    if is_grouped(text) or _GROUPED_DECIMAL.fullmatch(text):
        return "write it without separators of thousands"
    if text.lower() in _MISSING:
        return "fill in missing numbers, or remove their rows or their column"
    if column == layout.target:
        return f"the target of a regression is a number; {argument('column', like='NAME')} chooses another column"
    return f"write features as numbers, without units; {argument('column', like='NAME')} chooses the target"


def _count(classes: dict[str, int], name: str, where: str) -> None:
    if not name:
        raise DataError(f"{where}: expected a class in the target column, got an empty field")
    if name.lower().endswith(image_suffixes()):
        raise DataError(
            f"{where}: expected a class in the target column, got an image, '{name[:40]}'", hint=TABLE_OF_IMAGES_HINT
        )
    name = class_name(name)
    classes[name] = classes.get(name, 0) + 1
    if len(classes) > _MAX_CLASSES:
        raise DataError(
            f"{where}: expected at most {_MAX_CLASSES:,} classes, got more",
            hint="check that the target column is not numeric",
        )


def _count_other_files(classes: dict[str, int], path: Path, own: Split, choice: Choice) -> None:
    """Adds the classes of the other splits' files, if they exist, so that a class has the same index in all."""
    for split in SPLIT_NAMES:
        if split == own:
            continue
        try:
            found = _file(path, split)
        except DataError:
            continue
        if found.split != split:
            continue
        layout = _layout(found.path, choice)
        for _, fields, where in _lines(found.path, layout):
            _count(classes, fields[layout.target], where)


def _labels(classes: dict[str, int]) -> tuple[str, ...]:
    numbers = {name: number_from_text(name) for name in classes}
    if all(number is not None for number in numbers.values()):
        return tuple(sorted(classes, key=lambda name: numbers[name] or 0.0))
    return tuple(sorted(classes))
