"""Reads image folders, one per class: ``cat/1.jpg``, or ``train/cat/1.jpg`` and ``test/cat/2.jpg``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from edgekit.data.detection_set import empty_classes
from edgekit.data.examples import Choice, Example, Split
from edgekit.data.files import child, files_below, files_in, folders_in, leads_to_nothing
from edgekit.data.formats.class_lists import ClassLists, class_lists
from edgekit.data.formats.unsupported import unsupported_format
from edgekit.data.images import image_suffixes, images_below, read_image
from edgekit.data.splits import (
    SPLIT_NAMES,
    available_split,
    notes_on_drawn,
    part_of,
    require_drawn,
    split_from_folder,
    way_on,
)
from edgekit.errors import DataError
from edgekit.recipe.schema import Task

__all__ = ["ImageFolder", "image_folder_from_path", "is_no_class", "split_folders"]


_NO_CLASSES = frozenset(
    "data images image imgs img jpegimages photos pictures labels label annotations annotation ann masks mask "
    "segmentation segmentationclass segmentationobject imagesets gt gtfine groundtruth jpg jpeg png pngimages".split()
)
_OTHER_LABELS = "labels in a file beside images, such as CSV, are not read: export as folders, COCO, VOC or YOLO"
_HINT = "each class needs two images or more, so that one is for the test; or write the folders train and test"


class ImageFolder:
    """Images whose class is the name of their folder; classes are numbered in alphabetical order."""

    task: Task = "classify"

    def __init__(
        self,
        name: str,
        labels: tuple[str, ...],
        files: Sequence[tuple[Path, int]],
        notes: Sequence[str],
        *,
        split: Split = "test",
    ) -> None:
        """Creates the data set of a split from the path and class of each image.

        Raises:
            DataError: ``files`` is empty.
        """
        if not files:
            raise DataError(f"{name}: expected images in the {split} split, got none", hint=_HINT)
        self.name = name
        self.split = split
        self.labels = labels
        self.notes = [*notes, *([f"there is one class alone: '{labels[0]}'"] if len(labels) == 1 else [])]
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Example:
        path, label = self._files[index]
        return Example(f"{path.parent.name}/{path.name}", read_image(path), label)


def image_folder_from_path(root: Path, choice: Choice) -> ImageFolder:
    """Opens a folder with one subfolder of images per class.

    Subfolders named train, val and test are the splits, and a class has the same index in all even if one of them lacks
    it; or lists divide the images, see `class_lists`. Otherwise a fifth of each class is the test split. The subfolders
    of a class belong to it, as in torchvision. A note names classes without images.

    Raises:
        DataError: there are no classes, or no images; or images are in the folders of the splits themselves.
    """
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder with one subfolder per class, got a file")
    splits = split_folders(root)
    if splits:
        return _declared(root, splits, choice.split)
    classes = _class_folders(root)
    _require_classes(root, classes)
    if lists := class_lists(root, classes):
        return _listed(root, classes, lists, choice.split)
    require_drawn(choice.split, str(root))
    files: list[tuple[Path, int]] = []
    missing = []
    for label, folder in enumerate(classes):
        part = part_of(list(images_below(folder)), choice.split, lambda path: path.name)
        if not part:
            missing.append(folder.name)
        files += [(path, label) for path in part]
    notes = [*notes_on_drawn(choice.split), *_strays(root), *empty_classes(missing, "images")]
    return ImageFolder(str(root), tuple(folder.name for folder in classes), files, notes, split=choice.split)


def split_folders(root: Path) -> dict[Split, Path]:
    """Returns the subfolders that are named after a split and contain folders, by split."""
    found: dict[Split, Path] = {}
    for folder in folders_in(root):
        split = split_from_folder(folder)
        if split is not None and split not in found and folders_in(folder):
            found[split] = folder
    return found


def _declared(root: Path, splits: dict[Split, Path], wanted: Split) -> ImageFolder:
    usable = {split: path for split, path in splits.items() if _has_classes(path)}
    flat = _flat_splits(root, splits)
    if wanted not in usable and not (wanted == "test" and "val" in usable):
        if wanted in splits:
            _require_classes(splits[wanted], _class_folders(splits[wanted]))
        if wanted in flat:
            message = f"{flat[wanted]}: expected one subfolder per class, got images without classes"
            raise DataError(message, hint=way_on(list(usable), wanted) or _OTHER_LABELS)
    split, notes = available_split(usable, wanted, f"{root}: folders")
    splits = splits | flat
    folder = splits[split]
    notes += [f"{path} has no folders of classes and is left out" for key, path in splits.items() if key not in usable]
    # The classes are those of all splits.
    names = {other: {each.name for each in _class_folders(path)} for other, path in usable.items()}
    labels = tuple(sorted(set().union(*names.values())))
    index = {label: i for i, label in enumerate(labels)}
    files = [(path, index[each.name]) for each in _class_folders(folder) for path in images_below(each)]
    notes += [*_strays(folder), *_empty(labels, files)]
    return ImageFolder(str(folder), labels, files, notes, split=split)


def _flat_splits(root: Path, splits: Mapping[Split, Path]) -> dict[Split, Path]:
    """Returns the folders of the other splits that have images, and no folders."""
    found: dict[Split, Path] = {}
    for folder in folders_in(root):
        split = split_from_folder(folder)
        if split is not None and split not in splits and files_in(folder, *image_suffixes()):
            found.setdefault(split, folder)
    return found


def _listed(root: Path, classes: Sequence[Path], lists: ClassLists, wanted: Split) -> ImageFolder:
    split, notes = available_split(lists.images, wanted, f"{root}: lists of images")
    files = sorted(lists.images[split])
    labels = tuple(folder.name for folder in classes)
    notes += [*lists.notes, *lists.notes_on.get(split, []), *_strays(root), *_empty(labels, files)]
    return ImageFolder(str(root), labels, files, notes, split=split)


def _empty(labels: Sequence[str], files: Sequence[tuple[Path, int]]) -> list[str]:
    """Returns the note on classes without images in a split."""
    present = {label for _, label in files}
    return empty_classes([name for label, name in enumerate(labels) if label not in present], "images")


def _class_folders(root: Path) -> list[Path]:
    folders = folders_in(root)
    if not folders:
        raise DataError(f"{root}: expected one subfolder per class, got none")
    return folders


def _require_classes(root: Path, classes: Sequence[Path]) -> None:
    """Checks that folders of images are not those of another format, with labels in a table or another file."""
    if len(classes) == 1 and not files_in(classes[0], *image_suffixes()) and folders_in(classes[0]):
        raise DataError(
            f"{root}: expected one subfolder per class, got the single folder {classes[0].name} without images",
            hint=f"use {classes[0]}",
        )
    *first, last = (folder.name for folder in classes[:4])
    names = f"{', '.join(first)} and {last}" if first else last
    if all(is_no_class(folder.name) for folder in classes):
        got = f"the single folder {names}" if len(classes) == 1 else f"the folders {names}"
        hint = next(filter(None, map(_hint_on_label_files, classes)), "")
        raise _other(root, f"{root}: expected one subfolder per class, got {got}", hint)
    # CamVid has train and val beside trainannot and valannot.
    splits = [split for folder in classes if (split := split_from_folder(folder)) is not None]
    if len(splits) == len(classes) or len(set(splits)) > 1:
        raise _other(root, f"{root}: expected a subfolder for each class in {names}, got images without classes")
    other = next((folder for folder in classes if _has_other_files(folder)), None)
    if other is not None:
        message = f"{root}: expected images in the folder of each class, got other files alone in {other.name}"
        known = unsupported_format(other)
        if known is not None:
            raise DataError(f"{message}: {known.name}", hint=known.hint)
        raise DataError(message, hint=_way_on_with(other))


def _way_on_with(other: Path) -> str:
    """Returns a hint on a folder without images among those of classes."""
    return _hint_on_label_files(other) or f"move {other.name} out of the data set if it is no class"


def _hint_on_label_files(folder: Path) -> str:
    """Returns a hint if a folder has a text file for an image; MakeSense names its folder of labels freely."""
    images = child(folder.parent, "images")
    texts = {file.stem for file in files_in(folder, ".txt")}
    if images is None or not images.is_dir() or not any(file.stem in texts for file in images_below(images)):
        return ""
    return f"if {folder.name} has YOLO's label files, rename it to labels"


def _has_classes(root: Path) -> bool:
    try:
        _require_classes(root, _class_folders(root))
    except DataError:  # as the test split of a competition
        return False
    return True


def is_no_class(name: str) -> bool:
    """Whether a folder's name says what is in it, or that and a split: ``images``, ``train_images``."""
    words = {word for word in re.split(r"[^a-z]+", name.lower()) if word}
    splits = {word for names in SPLIT_NAMES.values() for word in names}
    return bool(words & _NO_CLASSES) and words <= _NO_CLASSES | splits


def _has_other_files(folder: Path) -> bool:
    """Whether a folder has files, and no image."""
    return next(images_below(folder), None) is None and next(files_below(folder), None) is not None


def _other(root: Path, message: str, hint: str = "") -> DataError:
    """Returns the error on folders of images without classes, with the format that they are in, if it is known."""
    other = unsupported_format(root)
    if other is None:
        return DataError(message, hint=hint or _OTHER_LABELS)
    return DataError(f"{message}, beside {other.name}", hint=other.hint)


def _strays(root: Path) -> Iterator[str]:
    if strays := len(files_in(root, *image_suffixes())):
        yield f"{strays} images are in {root} itself and belong to no class"
    if dead := [file for file in files_in(root, dead_links=True) if leads_to_nothing(file)]:
        yield f"links to nothing: {len(dead)} in {root} left out; the first: {dead[0].name}"
