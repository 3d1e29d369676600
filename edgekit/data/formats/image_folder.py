"""Reads image folders, one per class: ``cat/1.jpg``, or ``train/cat/1.jpg`` and ``test/cat/2.jpg``."""

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
    """Images whose class is the name of their folder; classes are numbered in alphabetical order."""

    task: Task = "classify"

    def __init__(self, name: str, labels: tuple[str, ...], files: list[tuple[Path, int]], notes: list[str]) -> None:
        """Creates the data set from the path and class of each image."""
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
    """Opens a folder with one subfolder of images per class.

    Subfolders named train and test (or val) are the splits, and a class has the same index in both even if one of them
    lacks it. Otherwise a fifth of each class is the test split.

    Raises:
        DataError: there are no classes, or a class has no images.
    """
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder with one subfolder per class, got a file")
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
    notes = [*_strays(root), *empty_classes(missing, "images")]
    return _checked_set(root, tuple(folder.name for folder in classes), files, notes)


def split_folders(root: Path) -> dict[Split, Path]:
    """Returns the subfolders that are named after a split and contain folders, by split."""
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
    notes = [*_strays(folder), *empty_classes([label for label in labels if label not in names[split]], "images")]
    return _checked_set(folder, labels, files, notes)


def _checked_set(root: Path, labels: tuple[str, ...], files: list[tuple[Path, int]], notes: list[str]) -> ImageFolder:
    if not files:
        raise DataError(f"{root}: expected at least two images in a class, one per split, got one")
    return ImageFolder(str(root), labels, files, notes)


def _class_folders(root: Path) -> list[Path]:
    folders = list(_folders(root))
    if not folders:
        raise DataError(f"{root}: expected one subfolder per class, got none")
    return folders


def _folders(root: Path) -> Iterator[Path]:
    try:
        yield from sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
    except OSError as e:
        raise DataError(f"{root}: expected a readable folder, got: {e.strerror}") from e


def _strays(root: Path) -> Iterator[str]:
    if strays := sum(is_image(path) for path in root.iterdir()):
        yield f"{strays} images are in {root} itself and belong to no class"
