"""Which examples are to learn from and which to be measured on, where the files do not say it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from edgekit.data.examples import Split
from edgekit.errors import DataError

__all__ = [
    "DRAWN",
    "SPLIT_NAMES",
    "fraction_from_key",
    "is_drawn",
    "part_of",
    "split_from_folder",
    "split_from_name",
    "split_path",
]

# In the order of preference: what is called test often has no labels in the sets that have a val, but not in folders.
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation", "t10k"),
}

DRAWN = "a fifth, drawn by a hash of each, is the test; write two files, train and test, to choose yourself"
"""Hint for those whom `is_drawn` leaves with nothing."""

_TESTED = 0.2

_T = TypeVar("_T")


def fraction_from_key(key: str) -> float:
    """A number in ``[0, 1)`` that looks random and depends on the key alone."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:7], "big") / 2**56


def is_drawn(key: str, split: Split) -> bool:
    """Whether what has this key is of the split: about a fifth is for the test, whatever else there is."""
    return (fraction_from_key(key) < _TESTED) == (split == "test")


def part_of(items: Sequence[_T], split: Split, key: Callable[[_T], str]) -> list[_T]:
    """A fifth of the items for the test, the rest for training; of two or more items both get one.

    Which are taken depends on the items' keys alone, so it is the same on every machine and every day. The order of
    the items is kept.
    """
    count = max(1, round(len(items) / 5)) if len(items) > 1 else 0
    by_hash = sorted(range(len(items)), key=lambda i: (fraction_from_key(key(items[i])), i))
    tested = set(by_hash[:count])
    return [item for i, item in enumerate(items) if (i in tested) == (split == "test")]


def split_from_name(name: str) -> Split | None:
    """The split that a file's or folder's name tells: ``instances_val2017.json`` is of the test."""
    words = re.findall(r"t10k|[a-z]+", name.lower())
    for split, names in SPLIT_NAMES.items():
        if any(word in names for word in words):
            return split
    return None


def split_from_folder(folder: Path) -> Split | None:
    """The split of which a folder's name is a name: other words may stand in those of folders by chance."""
    return next((split for split, names in SPLIT_NAMES.items() if folder.name.lower() in names), None)


def split_path(candidates: Sequence[Path], split: Split, whose: str) -> Path:
    """The one of the paths whose name tells this split; the first in the order of `SPLIT_NAMES` of several.

    Raises:
        DataError: none does.
    """
    for word in SPLIT_NAMES[split]:
        for path in candidates:
            if word in re.findall(r"t10k|[a-z]+", path.name.lower()):
                return path
    got = ", ".join(path.name for path in candidates[:8])
    raise DataError(f"{whose}: expected one called {' or '.join(SPLIT_NAMES[split])}, got {got or 'nothing'}")
