"""Reads the lists that divide folders of classes into splits, such as Food-101's ``meta/train.txt``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from edgekit.data.examples import Split
from edgekit.data.files import AnyCase, files_in, folded
from edgekit.data.formats.text_lines import text_lines
from edgekit.data.images import images_below
from edgekit.data.splits import SPLIT_NAMES, notes_on_others, preferred, split_from_name
from edgekit.errors import DataError

__all__ = ["ClassLists", "class_lists"]

_PLACES = ("annotations", "imagesets", "labels", "list", "lists", "meta", "split", "splits")
_FIRST_LINES = 20
_MAX_DEPTH = 32  # a line of slashes takes no time
_INNER_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")

_Index = Mapping[str, tuple[Path, int]]


class ClassLists(NamedTuple):
    """Images of folders of classes, by the split that a list has them in.

    Attributes:
        images: path and class of each image, by split; two splits or more.
        notes: names the lists, and says how many images they leave out.
        notes_on: says of a split what was left out of its list, and which other lists are not read.
    """

    images: Mapping[Split, Sequence[tuple[Path, int]]]
    notes: list[str]
    notes_on: Mapping[Split, list[str]]


def class_lists(root: Path, classes: Sequence[Path]) -> ClassLists | None:
    """Returns the splits that lists of ``class/image`` declare; None if fewer than two splits are declared.

    Lists are ``.txt`` files with the name of a split in theirs, in the folder itself, beside it, or in a folder such as
    ``meta`` or ``labels`` there. A line is a path from the folder of the classes, with or without the suffix (Food-101,
    DTD, MIT Indoor Scenes); a number or a name may follow. CUB-200-2011 has the images' numbers in ``images.txt``, and
    in ``train_test_split.txt`` which of them are to train on. A single list says nothing of the other images.

    Args:
        root: the folder with the folders of the classes.
        classes: those folders; the position is the class.
    """
    entries = AnyCase()
    places = _places(root, entries)
    candidates = [*_candidates(places)]
    numbered = [pair for place in places if (pair := _numbered(place, entries)) is not None]
    if not candidates and not numbered:
        return None
    index = _index(root, classes)
    by_split: dict[Split, list[Path]] = {}
    for file, split in candidates:
        if _lists_images(file, index):
            by_split.setdefault(split, []).append(file)
    if len(by_split) > 1:
        return _from_lists(root, by_split, index)
    return next((lists for images, marks in numbered if (lists := _from_numbers(images, marks, index))), None)


def _places(root: Path, entries: AnyCase) -> list[Path]:
    """Returns the folders in which there may be lists."""
    beside = root.absolute().parent
    named = [path for name in _PLACES if (path := entries.path(beside, name)) is not None and path != root.absolute()]
    # Images may be in a folder of another user.
    return [root, *(place for place in (beside, *named) if place.is_dir() and os.access(place, os.R_OK))]


def _candidates(places: Sequence[Path]) -> Iterator[tuple[Path, Split]]:
    for place in places:
        for file in files_in(place, ".txt"):
            split = split_from_name(_INNER_WORD.sub("_", file.stem))  # TrainImages.txt
            if split is not None:
                yield file, split


def _index(root: Path, classes: Sequence[Path]) -> _Index:
    """Returns image and class by path from the root, with and without the suffix."""
    found: dict[str, tuple[Path, int]] = {}
    for label, folder in enumerate(classes):
        for image in images_below(folder):
            path = image.relative_to(root)
            found[folded(path.as_posix())] = (image, label)
            found.setdefault(folded(path.with_suffix("").as_posix()), (image, label))
    return found


def _find(line: str, index: _Index) -> tuple[Path, int] | None:
    """Returns the image that a line names, without its first folders and what follows the path."""
    text = line.strip()
    for written in dict.fromkeys((text, re.split(r"[,;\t]", text)[0].strip(), *text.rsplit(maxsplit=1)[:1])):
        parts = re.split(r"[\\/]+", folded(written))[-_MAX_DEPTH:]
        for first in range(len(parts) - 1):
            if found := index.get("/".join(parts[first:])):
                return found
    return None


def _lists_images(file: Path, index: _Index) -> bool:
    try:
        return any(_find(line.text, index) is not None for line in islice(text_lines(file), _FIRST_LINES))
    except DataError:  # another program's file, in another encoding
        return False


def _from_lists(root: Path, by_split: Mapping[Split, Sequence[Path]], index: _Index) -> ClassLists:
    images: dict[Split, list[tuple[Path, int]]] = {}
    notes_on: dict[Split, list[str]] = {}
    used = []
    for split in sorted(by_split, key=list(SPLIT_NAMES).index):
        file, *_ = ordered = preferred(by_split[split], split)
        used.append(os.path.relpath(file, root.absolute().parent))
        found = [_find(line.text, index) for line in text_lines(file)]
        images[split] = list(dict.fromkeys(each for each in found if each is not None))
        notes_on[split] = notes_on_others(ordered, split)
        if missing := found.count(None):
            notes_on[split].append(f"lines of {file} that name no image of a class: {missing} left out")
    return ClassLists(images, [f"the splits are those of {' and '.join(used)}", *_in_no_list(images, index)], notes_on)


def _numbered(place: Path, entries: AnyCase) -> tuple[Path, Path] | None:
    images, marks = (entries.path(place, name) for name in ("images.txt", "train_test_split.txt"))
    return (images, marks) if images is not None and marks is not None else None


def _from_numbers(images: Path, marks: Path, index: _Index) -> ClassLists | None:
    """Reads CUB's lists: a number and a path in each line, and a number and whether the image is to train on."""
    paths = _pairs(images)
    found: dict[Split, list[tuple[Path, int]]] = {"train": [], "test": []}
    missing = 0
    for number, mark in _pairs(marks).items():
        image = _find(paths.get(number, ""), index)
        if image is None or mark not in ("0", "1"):
            missing += 1
        else:
            found["train" if mark == "1" else "test"].append(image)
    if not all(found.values()):
        return None
    left = [f"lines of {marks} that are of no image: {missing} left out"] if missing else []
    return ClassLists(found, [f"the splits are those of {marks.name}", *left, *_in_no_list(found, index)], {})


def _pairs(file: Path) -> dict[str, str]:
    try:
        fields = (line.text.split(maxsplit=1) for line in text_lines(file))
        return {pair[0]: pair[1].strip() for pair in fields if len(pair) == 2}
    except DataError:  # another program's file, in another encoding
        return {}


def _in_no_list(images: Mapping[Split, Sequence[tuple[Path, int]]], index: _Index) -> list[str]:
    listed = {image for split in images.values() for image in split}
    left = len(set(index.values()) - listed)
    return [f"images in no list: {left} left out"] if left else []
