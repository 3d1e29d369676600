"""Folders of pictures, one a class: ``cat/1.jpg``, or ``train/cat/1.jpg`` and ``test/cat/2.jpg``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgekit.data.detection_set import empty_classes
from edgekit.data.examples import Choice, Example, Split
from edgekit.data.images import images_in, is_image, read_image
from edgekit.data.splits import SPLIT_NAMES, part_of
from edgekit.errors import DataError
from edgekit.recipe.schema import Task

__all__ = ["ImageFolder", "image_folder_from_path", "split_folders"]


class ImageFolder:
    """Pictures whose class is the folder that they lie in; classes are numbered in the order of their names."""

    task: Task = "classify"

    def __init__(self, name: str, labels: tuple[str, ...], files: list[tuple[Path, int]], notes: list[str]) -> None:
        """Takes each picture's path with its class."""
        self.name = name
        self.labels = labels
        self.notes = notes
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Example:
        path, label = self._files[index]
        return Example(f"{path.parent.name}/{path.name}", read_image(path), label)


def image_folder_from_path(root: Path, choice: Choice) -> ImageFolder:
    """The pictures below a folder.

    Where its sub-folders are called train and test (or val), these are the splits, and a class has the same number in
    both whether or not both have it. Elsewhere a fifth of each class is the test.

    Raises:
        DataError: there are no classes, or one has no pictures.
    """
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder with one folder a class, got a file")
    splits = split_folders(root)
    if splits:
        return _declared(root, splits, choice.split)
    files: list[tuple[Path, int]] = []
    missing = []
    classes = _class_folders(root)
    for label, folder in enumerate(classes):
        part = part_of(images_in(folder), choice.split, lambda path: path.name)
        if not part:
            missing.append(folder.name)
        files += [(path, label) for path in part]
    notes = [*_strays(root), *empty_classes(missing, "pictures")]
    return _with_pictures(root, tuple(folder.name for folder in classes), files, notes)


def split_folders(root: Path) -> dict[Split, Path]:
    """The sub-folders that are splits, by the split; empty unless one of them is to learn from or to be measured on."""
    found: dict[Split, Path] = {}
    for split, names in SPLIT_NAMES.items():
        for name in names:
            for folder in _folders(root):
                if folder.name.lower() == name and split not in found and any(_folders(folder)):
                    found[split] = folder
    return found


def _declared(root: Path, splits: dict[Split, Path], split: Split) -> ImageFolder:
    folder = splits.get(split)
    if folder is None:
        raise DataError(f"{root}: expected a folder {' or '.join(SPLIT_NAMES[split][:4])}, got none")
    names = {other: {each.name for each in _class_folders(path)} for other, path in splits.items()}
    labels = tuple(sorted(set().union(*names.values())))
    files = [(path, labels.index(each.name)) for each in _class_folders(folder) for path in images_in(each)]
    notes = [*_strays(folder), *empty_classes([label for label in labels if label not in names[split]], "pictures")]
    return _with_pictures(folder, labels, files, notes)


def _with_pictures(root: Path, labels: tuple[str, ...], files: list[tuple[Path, int]], notes: list[str]) -> ImageFolder:
    if not files:
        raise DataError(f"{root}: expected at least two pictures in a class, to learn from and to measure, got one")
    return ImageFolder(str(root), labels, files, notes)


def _class_folders(root: Path) -> list[Path]:
    folders = list(_folders(root))
    if not folders:
        raise DataError(f"{root}: expected one folder a class, got none")
    return folders


def _folders(root: Path) -> Iterator[Path]:
    try:
        yield from sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
    except OSError as e:
        raise DataError(f"{root}: expected a folder that can be read, got: {e.strerror}") from e


def _strays(root: Path) -> Iterator[str]:
    if strays := sum(is_image(path) for path in root.iterdir()):
        yield f"{strays} pictures lie in {root} itself and belong to no class"
