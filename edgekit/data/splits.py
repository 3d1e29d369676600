"""Assigns examples to the train or test split, by file name or by hash."""

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

# In order of preference. In data sets with a val split, test often has no labels; image folders always have them.
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation", "t10k"),
}

DRAWN = "a fifth of the examples, selected by hash, is the test split; write files train and test to choose the split"
"""Hint for an empty split that `is_drawn` selected."""

_TEST_FRACTION = 0.2

_T = TypeVar("_T")


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


def split_from_name(name: str) -> Split | None:
    """Returns the split named in a file or folder name, or None: ``instances_val2017.json`` is ``test``."""
    words = re.findall(r"t10k|[a-z]+", name.lower())
    for split, names in SPLIT_NAMES.items():
        if any(word in names for word in words):
            return split
    return None


def split_from_folder(folder: Path) -> Split | None:
    """Returns the split whose name is the whole folder name, or None; a word within a folder name may be unrelated."""
    return next((split for split, names in SPLIT_NAMES.items() if folder.name.lower() in names), None)


def split_path(candidates: Sequence[Path], split: Split, whose: str) -> Path:
    """Returns the path whose name contains the split; of several, the first in the order of `SPLIT_NAMES`.

    Raises:
        DataError: no name contains the split.
    """
    for word in SPLIT_NAMES[split]:
        for path in candidates:
            if word in re.findall(r"t10k|[a-z]+", path.name.lower()):
                return path
    got = ", ".join(path.name for path in candidates[:8])
    raise DataError(f"{whose}: expected one called {' or '.join(SPLIT_NAMES[split])}, got {got or 'nothing'}")
