"""Reads parallel texts: source and translation, one pair per line."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from edgekit.data.examples import Choice, Example, Split
from edgekit.data.files import files_in
from edgekit.data.formats.text_lines import Line, text_line_at, text_lines
from edgekit.data.splits import DRAWN, file_of_split, is_drawn
from edgekit.data.vocabulary import SPECIAL_TOKENS
from edgekit.errors import DataError
from edgekit.recipe.schema import Task

__all__ = ["ParallelText", "is_parallel_text", "text_from_path"]

_SUFFIXES = (".tsv", ".tab", ".txt")
_PAIR = (".src", ".tgt")


class ParallelText:
    """Pairs of texts, read from their files on access.

    Attributes:
        labels: the special tokens and every character in the files.
    """

    task: Task = "translate"

    def __init__(
        self,
        files: tuple[Path, ...],
        places: list[array[int]],
        characters: set[str],
        *,
        split: Split = "test",
        notes: Sequence[str] = (),
    ) -> None:
        """Creates the data set from one file of tab-separated pairs, or two files, and the positions of their lines.

        Args:
            files: one file, or source and target.
            places: for each file, the line numbers, then the byte offsets.
            characters: all characters in the files.
            split: the split of the pairs.
            notes: see `DataSet.notes`.
        """
        self.name = str(files[0])
        self.split = split
        self.labels = (*SPECIAL_TOKENS, *sorted(characters))
        self.notes = list(notes)
        self._files = files
        self._places = places

    def __len__(self) -> int:
        return len(self._places[0])

    def __getitem__(self, index: int) -> Example:
        texts: list[str] = []
        for i, file in enumerate(self._files):
            line = self._places[2 * i][index]
            text = text_line_at(file, line, self._places[2 * i + 1][index])
            texts += _pair(text, f"{file}, line {line}") if len(self._files) == 1 else [text.strip()]
        return Example(f"{self._files[0]}, line {self._places[0][index]}", texts[0], texts[1])


def text_from_path(path: Path, choice: Choice) -> ParallelText:
    """Opens a file of tab-separated pairs, or ``FILE.src`` and ``FILE.tgt`` by either name.

    In a folder, the file whose name contains the split is read. If the name contains no split, a fifth of the pairs is
    the test split, by a hash of the source, so that all translations of a text are in the same split.

    Raises:
        DataError: a line has no tab or several, a text is empty, or the lines of the two files do not match; names file
            and line.
    """
    files, split, notes = _files(path, choice.split)
    places: list[array[int]] = [array("Q") for _ in range(2 * len(files))]
    characters: set[str] = set()
    for lines in _rows(files):
        source, target = _texts(files, lines)
        characters.update(source, target)
        if split is not None or is_drawn(source, choice.split):
            for i, line in enumerate(lines):
                places[2 * i].append(line.number)
                places[2 * i + 1].append(line.offset)
    if not places[0]:
        raise DataError(
            f"{files[0]}: expected at least one pair for the {choice.split} split, got none",
            hint="" if split is not None else DRAWN,
        )
    return ParallelText(files, places, characters, split=split or choice.split, notes=notes)


def is_parallel_text(path: Path) -> bool:
    """Whether the file's first line is two texts separated by a tab, or the file is one of a pair."""
    if path.suffix in _PAIR:
        return True
    line = next(text_lines(path), Line(1, 0, ""))
    return path.suffix in _SUFFIXES and line.text.strip().count("\t") == 1


def _files(path: Path, wanted: Split) -> tuple[tuple[Path, ...], Split | None, list[str]]:
    """Returns the file or the two files to read, the split that their names have, and notes."""
    if path.is_dir():
        others, whose = files_in(path, ".src", *_SUFFIXES), f"{path}: files of texts"
    else:
        others, whose = files_in(path.parent, path.suffix.lower()), f"{path.parent}: files like {path.name}"
    path, split, notes = file_of_split(path, others, wanted, whose)
    if path.suffix not in _PAIR:
        return (path,), split, notes
    pair = tuple(path.with_suffix(suffix) for suffix in _PAIR)
    for file in pair:
        if not file.is_file():
            raise DataError(f"{path}: expected {file.name} next to it, got no such file")
    return pair, split, notes


def _rows(files: tuple[Path, ...]) -> Iterator[tuple[Line, ...]]:
    """Yields the lines of each pair; of two files, those with the same line number."""
    for lines in zip_longest(*(text_lines(file) for file in files)):
        first = min(line.number for line in lines if line is not None)
        for file, line in zip(files, lines, strict=True):
            if line is None or line.number != first:
                raise DataError(f"{file}, line {first}: expected a text, as in the other file, got none")
        yield lines


def _texts(files: tuple[Path, ...], lines: tuple[Line, ...]) -> tuple[str, str]:
    if len(files) == 1:
        source, target = _pair(lines[0].text, f"{files[0]}, line {lines[0].number}")
        return source, target
    return lines[0].text.strip(), lines[1].text.strip()


def _pair(text: str, where: str) -> tuple[str, str]:
    parts = [part.strip() for part in text.split("\t")]
    if len(parts) != 2:
        raise DataError(f"{where}: expected a text, a tab and its translation, got {len(parts) - 1} tabs")
    if not all(parts):
        side = "right" if parts[0] else "left"
        raise DataError(f"{where}: expected a text on both sides of the tab, got none on the {side}")
    return parts[0], parts[1]
