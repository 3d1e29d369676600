"""Assigns examples to the train, val or test split, by file name or by hash."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from edgekit.arguments import either
from edgekit.data.examples import Split
from edgekit.errors import DataError

__all__ = [
    "DRAWN",
    "SPLIT_NAMES",
    "MissingSplit",
    "SplitFile",
    "available_split",
    "file_of_split",
    "fraction_from_key",
    "is_drawn",
    "notes_on_drawn",
    "notes_on_others",
    "part_of",
    "preferred",
    "require_drawn",
    "split_from_folder",
    "split_from_name",
    "way_on",
    "without_split",
]

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation", "dev", "minival"),
    "test": ("test", "testing", "t10k"),
}
"""The names of a split in lower case, in order of preference."""

DRAWN = "a fifth of the examples, selected by hash, is the test split; write files train and test to choose the split"
"""Hint for an empty split that `is_drawn` selected."""

_TEST_FRACTION = 0.2
_WORD = re.compile(r"t10k|[a-z]+")

_T = TypeVar("_T")


class MissingSplit(DataError):
    """A data set declares splits, but not the one that was asked for."""


class SplitFile(NamedTuple):
    """The file of a split.

    Attributes:
        path: the file.
        split: the split that it contains; None if its name has none, so that the split is selected by hash.
        notes: says if it is not the wanted split.
    """

    path: Path
    split: Split | None
    notes: list[str]


def fraction_from_key(key: str) -> float:
    """Hashes the key to a pseudo-random number in ``[0, 1)``."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:7], "big") / 2**56


def is_drawn(key: str, split: Split) -> bool:
    """Whether the example with this key belongs to the split; the key's hash assigns about a fifth to test."""
    return (fraction_from_key(key) < _TEST_FRACTION) == (split == "test")


def part_of(items: Sequence[_T], split: Split, key: Callable[[_T], str]) -> list[_T]:
    """Selects a fifth of the items for test, the rest for train; if there are two or more, neither split is empty.

    The selection depends on the items' keys alone, so it is reproducible. The order of the items is kept.
    """
    count = max(1, round(len(items) / 5)) if len(items) > 1 else 0
    by_hash = sorted(range(len(items)), key=lambda i: (fraction_from_key(key(items[i])), i))
    tested = set(by_hash[:count])
    return [item for i, item in enumerate(items) if (i in tested) == (split == "test")]


def require_drawn(split: Split, whose: str) -> None:
    """Checks that a split can be selected by hash.

    Raises:
        DataError: it is val.
    """
    if split == "val":
        raise DataError(
            f"{whose}: expected files or folders of a val split ({' or '.join(SPLIT_NAMES['val'])}), got none",
            hint="without declared splits there are only train and test",
        )


def notes_on_drawn(split: Split) -> list[str]:
    """Returns the note on a split that was selected by hash."""
    part = "a fifth of the data, selected by hash" if split == "test" else "all but a fifth, which a hash selects"
    return [f"the data set declares no splits: {split} is {part}"]


def split_from_name(name: str) -> Split | None:
    """Returns the split named in a file or folder name, or None: ``instances_val2017.json`` is ``val``."""
    words = _WORD.findall(name.lower())
    for split, names in SPLIT_NAMES.items():
        if any(word in names for word in words):
            return split
    return None


def split_from_folder(folder: Path) -> Split | None:
    """Returns the split that a whole folder name, up to a number, is; None if it is none.

    A word within a folder name may be unrelated.
    """
    name = re.sub(r"(?<=[a-z])[-_ ]?\d+$", "", folder.name.lower())
    return next((split for split, names in SPLIT_NAMES.items() if name in names), None)


def without_split(name: str) -> str:
    """Returns a name in lower case with ``*`` for its split, which is the same for all files of a data set."""
    names = {word for words in SPLIT_NAMES.values() for word in words}
    return _WORD.sub(lambda match: "*" if match[0] in names else match[0], name.lower())


def available_split(available: Iterable[Split], wanted: Split, whose: str, got: str = "") -> tuple[Split, list[str]]:
    """Returns the split to read, and a note if it is not the wanted one: if there is no test split, val is used.

    Args:
        available: the splits that the data set declares.
        wanted: the split that was asked for.
        whose: the data set, for the message.
        got: what there is instead, for the message; default: ``available``.

    Raises:
        MissingSplit: the split is not declared.
    """
    available = list(available)
    if wanted in available:
        return wanted, []
    if wanted == "test" and "val" in available:
        return "val", ["the data set has no test split: its val split is used"]
    names = SPLIT_NAMES[wanted] + (SPLIT_NAMES["val"] if wanted == "test" else ())
    raise MissingSplit(
        f"{whose}: expected one called {' or '.join(names)}, got {got or ', '.join(available) or 'nothing'}",
        hint=way_on(available, wanted),
    )


def way_on(available: Sequence[Split], wanted: Split) -> str:
    """Returns the hint if a split is not there: to add it, or to measure on one that is; empty if there is none."""
    if not available:
        return ""
    if wanted == "train":  # for training and calibration, which choose no split
        return "add a split train"
    other = "test" if "test" in available else available[0]
    how = either(f"`edgekit eval --split {other}`", f"split={other!r}")
    return f"add a split {SPLIT_NAMES['val'][0]}, or measure on the {other} split with {how}"


def file_of_split(path: Path, others: Sequence[Path], wanted: Split, whose: str) -> SplitFile:
    """Returns the file of a split.

    Args:
        path: the file or folder that the user gave. A file without a split in its name is read for every split, and a
            file of val for test too, because the user chose it.
        others: the files of the folder, or those next to the file.
        wanted: the split that was asked for.
        whose: the files, for the message.

    Raises:
        DataError: no file has the split in its name.
    """
    if path.is_dir():
        if len(others) == 1 and split_from_name(others[0].name) is None:
            path = others[0]
        else:
            return _split_file(others, wanted, whose)
    own = split_from_name(path.name)
    if own is None:
        require_drawn(wanted, str(path))
        return SplitFile(path, None, notes_on_drawn(wanted))
    if own == wanted:
        return SplitFile(path, own, [])
    if (own, wanted) == ("val", "test"):
        return SplitFile(path, own, [f"{path.name} is of the val split, which is used as the test split"])
    return _split_file(others, wanted, whose)


def _split_file(candidates: Sequence[Path], wanted: Split, whose: str) -> SplitFile:
    got = ", ".join(path.name for path in candidates[:8])
    named = [(path, found) for path in candidates if (found := split_from_name(path.name)) is not None]
    split, notes = available_split([found for _, found in named], wanted, whose, got)
    own = preferred([path for path, found in named if found == split], split)
    return SplitFile(own[0], split, [*notes, *notes_on_others(own, split)])


def notes_on_others(files: Sequence[Path], split: Split) -> list[str]:
    """Returns a note if a split has several files, of which the first is read."""
    if len(files) < 2:
        return []
    others = ", ".join(path.name for path in files[1:4]) + (f" and {len(files) - 4} more" if len(files) > 4 else "")
    return [f"{files[0].name} is read as the {split} split; other files of this split are not: {others}"]


def preferred(files: Iterable[Path], split: Split) -> list[Path]:
    """Returns the files of a split with the one to read first: ``train.txt`` before ``trainval.txt``."""
    return sorted(files, key=lambda path: _preference(path.name, split))


def _preference(name: str, split: Split) -> int:
    words = _WORD.findall(name.lower())
    names = SPLIT_NAMES[split]
    return min((i for i, word in enumerate(names) if word in words), default=len(names))
