"""Finds the images and class names of a YOLO data set: from ``data.yaml``, Darknet's ``obj.data``, or its folders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit.data.examples import Split
from edgekit.data.files import Finder, child, files_in, folders_in
from edgekit.data.formats.text_lines import names_in, text_lines
from edgekit.data.formats.yolo_yaml import Settings, names_from_value, settings_from_data, settings_from_yaml
from edgekit.data.images import image_suffixes
from edgekit.data.splits import SPLIT_NAMES, split_from_folder
from edgekit.errors import DataError

__all__ = ["NAME_FILES", "YoloSource", "names_from_config", "yolo_configs", "yolo_folders", "yolo_source"]

NAME_FILES = ("classes.txt", "obj.names", "labels.txt", "classes.names", "class_names.txt", "_darknet.labels")
"""Files with one class name per line: of LabelImg, Darknet, labelme and Roboflow."""

_NAMES = re.compile(r"[{ '\"]*(?:names|classes|nc:)", re.IGNORECASE)
_NAMES_IN_MAP = re.compile(r"\s*\{.*\b(?:names|nc)['\"]?\s*:")
_CONFIGS = ("data.yaml", "dataset.yaml", "data.yml", "obj.data")


@dataclass(frozen=True)
class YoloSource:
    """Image locations and class names.

    Attributes:
        names: class names; None if no file has them.
        images: folders or list files of each declared split.
        undeclared: folders or list files of all images, if no splits are declared.
        keypoints: number of keypoints in a line after the class and the box, and of numbers of each one: x, y, and the
            visibility if there are three; 0 without keypoints.
        missing: the errors of declared splits whose paths do not exist.
        numbered: the file has only the number of classes, so that ``names`` are numbers.
        file: name of the file that was read, if it was found in a folder.
        others: names of other such files in that folder.
    """

    names: tuple[str, ...] | None
    images: Mapping[Split, tuple[Path, ...]]
    undeclared: tuple[Path, ...] = ()
    keypoints: tuple[int, int] = (0, 0)
    missing: Mapping[Split, DataError] = field(default_factory=dict)
    numbered: bool = False
    file: str = ""
    others: tuple[str, ...] = ()


def yolo_source(path: Path) -> YoloSource:
    """Finds the images and the class names of a configuration file or a folder.

    Raises:
        DataError: a file cannot be read, or names a path that does not exist.
    """
    if path.is_file():
        return _from_config(path)
    configs = yolo_configs(path)
    if not configs:
        return _from_folder(path)
    found = _from_config(configs[0])
    return replace(found, file=configs[0].name, others=tuple(file.name for file in configs[1:]))


def yolo_configs(folder: Path) -> list[Path]:
    """Returns the folder's configuration files with image paths and class names; the first one counts."""
    files = files_in(folder, ".yaml", ".yml", ".data")
    return [file for file in sorted(files, key=lambda file: (file.name not in _CONFIGS, file.name)) if _has_names(file)]


def yolo_folders(root: Path, *, labelled: bool = False) -> dict[Split, tuple[Path, ...]]:
    """Returns the folders of images of each split: ``images/train``, ``train/images``, or ``train`` with label files.

    Args:
        root: the folder of the data set.
        labelled: only those with label files, or with a folder ``labels`` next to them.
    """
    found: dict[Split, tuple[Path, ...]] = {}
    images = child(root, "images", "jpegimages")
    below = folders_in(images) if images is not None and images.is_dir() else []
    for folder in below if not labelled or child(root, "labels") is not None else []:
        _add(found, split_from_folder(folder), folder)
    for folder in folders_in(root):
        inner = child(folder, "images", "jpegimages")
        if inner is not None and inner.is_dir() and (not labelled or child(folder, "labels") is not None):
            _add(found, split_from_folder(folder), inner)
        elif split_from_folder(folder) is not None and has_labelled_images(folder):
            _add(found, split_from_folder(folder), folder)
    return found


def has_labelled_images(folder: Path) -> bool:
    """Whether an image of the folder has a label file next to it."""
    texts = {file.stem for file in files_in(folder, ".txt")}
    return bool(texts) and any(file.stem in texts for file in files_in(folder, *image_suffixes()))


def names_from_config(file: Path) -> tuple[str, ...]:
    """Returns the class names of a ``data.yaml`` or ``obj.data``.

    Raises:
        DataError: the file cannot be read, or has no valid names.
    """
    if file.suffix.lower() == ".data":
        return _darknet_names(file, settings_from_data(file), _finder(file, file.parent))
    return names_from_value(settings_from_yaml(file).get("names"), file)


def _add(found: dict[Split, tuple[Path, ...]], split: Split | None, folder: Path) -> None:
    if split is not None:
        found[split] = (*found.get(split, ()), folder)


def _has_names(file: Path) -> bool:
    try:
        return any(_NAMES.match(line.text) or _NAMES_IN_MAP.match(line.text) for line in text_lines(file))
    except DataError:
        # A configuration of the usual name that cannot be read would be left out in silence.
        return file.name.lower() in _CONFIGS


def _from_config(file: Path) -> YoloSource:
    darknet = file.suffix.lower() == ".data"
    settings = settings_from_data(file) if darknet else settings_from_yaml(file)
    settings = {key.lower(): value for key, value in settings.items()}
    finder = _finder(file, _root(file, settings))
    images, missing = _declared(file, settings, finder)
    key = "classes" if darknet else "nc"
    declared = settings.get(key)
    numbered = "names" not in settings and re.fullmatch(r"[1-9]\d{0,3}", str(declared)) is not None
    if darknet:
        names = _darknet_names(file, settings, finder)
    elif numbered:
        names = tuple(map(str, range(int(str(declared)))))
    else:
        names = names_from_value(settings.get("names"), file)
    if declared is not None and str(declared) != str(len(names)):
        raise DataError(f"{file}: {key}: expected {len(names)}, the number of names, got {str(declared)[:40]!r}")
    keypoints = _keypoints(file, settings)
    if images or missing:
        return YoloSource(names, images, (), keypoints, missing, numbered)
    folders = _from_folder(_root(file, settings))
    return YoloSource(names, folders.images, folders.undeclared, keypoints, {}, numbered)


def _declared(
    file: Path, settings: Settings, finder: Finder
) -> tuple[dict[Split, tuple[Path, ...]], dict[Split, DataError]]:
    """Returns the places of the images of each split, and the errors of splits with a path that does not exist."""
    images: dict[Split, tuple[Path, ...]] = {}
    missing: dict[Split, DataError] = {}
    for split, words in SPLIT_NAMES.items():
        key = next((word for word in words if settings.get(word)), None)
        if key is None:
            continue
        try:
            images[split] = tuple(_place(file, finder, key, value) for value in _values(settings[key]))
        except DataError as e:
            missing[split] = e
    return images, missing


def _from_folder(root: Path) -> YoloSource:
    named = child(root, *NAME_FILES)
    splits = yolo_folders(root)
    if named is None:
        named = _named_below(root)
    names = names_in(named) if named is not None else None
    if splits := splits or _lists(root):
        return YoloSource(names, splits)
    images = child(root, "images", "jpegimages")
    return YoloSource(names, {}, (images if images is not None and images.is_dir() else root,))


def _lists(root: Path) -> dict[Split, tuple[Path, ...]]:
    """Returns lists of images named after splits, such as ``train.txt`` and ``autosplit_val.txt`` of Ultralytics.

    A single list says nothing of other images: there are none of a split then.
    """
    found: dict[Split, tuple[Path, ...]] = {}
    for file in sorted(files_in(root, ".txt")):
        split = split_from_folder(Path(file.stem.lower().removeprefix("autosplit_")))
        if split is not None and _lists_images(file):
            _add(found, split, file)
    return found if len(found) > 1 else {}


def _lists_images(file: Path) -> bool:
    """Whether the first line of a file names an image; the labels of ``test.jpg`` are in ``test.txt`` too."""
    first = next((line.text.strip() for line in text_lines(file) if line.text.strip()), "")
    return Path(first).suffix.lower() in image_suffixes()


def _named_below(root: Path) -> Path | None:
    """Returns the file of names in the folder of a split, or with the label files, where LabelImg writes it."""
    labels = child(root, "labels")
    splits = [folder for folder in folders_in(root) if split_from_folder(folder)]
    inner = [child(folder, "labels") for folder in splits]
    folders = [*splits, *(folder for folder in inner if folder is not None and folder.is_dir())]
    if labels is not None and labels.is_dir():
        folders += [labels, *(folder for folder in folders_in(labels) if split_from_folder(folder))]
    return next((file for folder in folders if (file := child(folder, *NAME_FILES)) is not None), None)


def _root(file: Path, settings: Settings) -> Path:
    """Returns the folder that the setting ``path`` names, if it exists, else the file's folder."""
    base = settings.get("path")
    found = _finder(file, file.parent).find(base) if isinstance(base, str) else None
    return found if found is not None and found.is_dir() else file.parent


def _finder(file: Path, root: Path) -> Finder:
    folder = file.absolute().parent
    # Roboflow writes one ../ too many, which is dropped like the first folders of another machine's paths.
    places = [root, folder, folder.parent, Path.cwd(), *folder.parents[1:]]
    return Finder(places, nearest=2, accept=Path.exists)


def _darknet_names(file: Path, settings: Settings, finder: Finder) -> tuple[str, ...]:
    named = settings.get("names")
    if not isinstance(named, str) or not named:
        return names_from_value(None, file)
    return names_in(_place(file, finder, "names", named))


def _keypoints(file: Path, settings: Settings) -> tuple[int, int]:
    """Returns what ``kpt_shape`` declares: the number of keypoints, and 2 (x, y) or 3 (x, y, visibility)."""
    shape = settings.get("kpt_shape")
    if shape is None:
        return 0, 0
    numbers = [str(number) for number in shape] if isinstance(shape, list) else []
    if len(numbers) != 2 or not all(number.isdecimal() and len(number) < 6 for number in numbers):
        raise DataError(f"{file}: kpt_shape: expected [keypoints, 2 or 3], got {str(shape)[:40]!r}")
    return int(numbers[0]), int(numbers[1])


def _values(value: object) -> list[str]:
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]


def _place(file: Path, finder: Finder, key: str, value: str) -> Path:
    path = finder.find(value)
    if path is None:
        raise DataError(f"{file}: {key}: expected a file or a folder, got no such path: {value[:200]}")
    return path
