"""Reads YOLO text files: one per image, one box per line, ``class cx cy width height`` as fractions of the image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.data.detection_set import AnnotatedImage, BoxList, DetectionSet, Tally
from edgekit.data.examples import Boxes, Choice, Split
from edgekit.data.formats.text_lines import names_in, text_lines
from edgekit.data.formats.yolo_yaml import names_from_value, settings_from_data, settings_from_yaml
from edgekit.data.images import is_image
from edgekit.data.splits import SPLIT_NAMES, part_of
from edgekit.errors import DataError
from edgekit.storage import first_file, is_there

__all__ = ["yolo_config", "yolo_from_path"]

_NAME_FILES = ("classes.txt", "obj.names", "labels.txt", "classes.names")
# Ultralytics accepts fractions up to this, to allow for rounding.
_MAX_FRACTION = 1.01


@dataclass(frozen=True)
class _Source:
    """Image locations and class names.

    Attributes:
        images: folders or list files of each split; under ``all`` if there are no splits.
        names: class names; None if no file has them.
    """

    images: Mapping[Split | Literal["all"], tuple[Path, ...]]
    names: tuple[str, ...] | None


def yolo_from_path(path: Path, choice: Choice) -> DetectionSet:
    """Opens a ``data.yaml`` or ``obj.data``, or a folder with one of them or with ``images`` and ``labels``.

    The label file of ``images/train/1.jpg`` is ``labels/train/1.txt``, or ``1.txt`` next to the image. An image without
    a label file has no objects, as in Darknet and Ultralytics; a note gives their number. A line with more than five
    numbers is a polygon and is replaced by its bounding box. Without splits, a fifth of the images is the test split;
    without names, classes are named by their numbers.

    Raises:
        DataError: there are no images, a line is not a box, its class has no name, or the box is outside its image;
            names file and line.
    """
    source = _from_config(path) if path.is_file() else _from_folder(path)
    if choice.split in source.images:
        images = _listed(source.images[choice.split])
    elif "all" in source.images:
        images = part_of(_listed(source.images["all"]), choice.split, lambda file: file.stem)
    else:
        wanted = " or ".join(SPLIT_NAMES[choice.split])
        raise DataError(f"{path}: expected images of the {choice.split} split ({wanted}), got none")
    tally, missing = Tally(), 0
    read: list[tuple[Path, Path, Boxes]] = []
    for image in images:
        text = _label_path(image)
        missing += text is None
        boxes = _boxes(text, source.names, tally) if text else BoxList((1, 1), tally).boxes()
        read.append((image, text or image, boxes))
    if missing == len(images):
        raise DataError(f"{path}: expected files in labels/ with the same names as those in images/, got none")
    names = source.names or _numbers(read)
    entries = [AnnotatedImage(image, boxes, None, text.name) for image, text, boxes in read]
    notes = tally.notes()
    if missing:
        notes.append(f"{missing:,} images have no label file and are taken as images without objects")
    if source.names is None:
        notes.append(f"no data.yaml or classes.txt has class names, so classes are named 0 to {len(names) - 1}")
    return DetectionSet(str(path), names, entries, notes)


def yolo_config(folder: Path) -> Path | None:
    """Returns the folder's configuration file with image paths and class names, or None."""
    named = [folder / name for name in ("data.yaml", "dataset.yaml", "data.yml", "obj.data")]
    for file in (*named, *sorted([*folder.glob("*.yaml"), *folder.glob("*.data")])):
        if file.is_file() and any(line.text.startswith(("names", "classes")) for line in text_lines(file)):
            return file
    return None


def _from_config(file: Path) -> _Source:
    darknet = file.suffix == ".data"
    settings = settings_from_data(file) if darknet else settings_from_yaml(file)
    root = file.parent
    if isinstance(base := settings.get("path"), str) and is_there(root / base):
        root = root / base
    images: dict[Split | Literal["all"], tuple[Path, ...]] = {}
    for split, words in SPLIT_NAMES.items():
        # In data sets with a val split, test often has no labels, so val has priority here.
        for key in ("val", "valid", *words) if split == "test" else words:
            if settings.get(key) and split not in images:
                images[split] = tuple(_place(file, root, key, value) for value in _values(settings[key]))
    if not images:
        folder = _from_folder(root, ignore_config=True)
        images = dict(folder.images)
    if darknet and isinstance(named := settings.get("names"), str):
        names = names_in(_place(file, root, "names", named))
    else:
        names = names_from_value(settings.get("names"), file)
    key = "classes" if darknet else "nc"
    declared = settings.get(key, str(len(names)))
    if declared != str(len(names)):
        raise DataError(f"{file}: {key}: expected {len(names)}, the number of names, got {str(declared)[:40]!r}")
    return _Source(images, names)


def _from_folder(root: Path, *, ignore_config: bool = False) -> _Source:
    if not ignore_config and (config := yolo_config(root)):
        return _from_config(config)
    named = first_file(root / name for name in _NAME_FILES)
    images: dict[Split | Literal["all"], tuple[Path, ...]] = {}
    for split, words in SPLIT_NAMES.items():
        for word in words:
            for folder in (root / "images" / word, root / word / "images"):
                if folder.is_dir() and split not in images:
                    images[split] = (folder,)
    if not images:
        images["all"] = (root / "images" if (root / "images").is_dir() else root,)
    return _Source(images, names_in(named) if named else None)


def _values(value: object) -> list[str]:
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]


def _place(file: Path, root: Path, key: str, value: str) -> Path:
    """Resolves a path from a configuration file; Roboflow writes one ``../`` too many."""
    candidates = [root / value, file.parent / value, root / value.removeprefix("../"), Path(value)]
    for path in candidates:
        if is_there(path):
            return path
    raise DataError(f"{file}: {key}: expected a file or a folder, got no such path: {value[:200]}")


def _listed(places: tuple[Path, ...]) -> list[Path]:
    """Returns the images in folders and in list files."""
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            found += sorted(path for path in place.rglob("*") if is_image(path))
        else:
            found += _from_list(place)
    if not found:
        raise DataError(f"{', '.join(map(str, places))}: expected images, got none")
    return found


def _from_list(file: Path) -> Iterator[Path]:
    for line in text_lines(file):
        path = Path(line.text.strip())
        path = path if path.is_absolute() else file.parent / path
        if first_file([path]) is None:
            raise DataError(f"{file}, line {line.number}: expected the path of an image, got {line.text.strip()[:200]}")
        yield path


def _label_path(image: Path) -> Path | None:
    parts = list(image.parts)
    candidates = [image.with_suffix(".txt")]
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        candidates.insert(0, Path(*parts[:last], "labels", *parts[last + 1 :]).with_suffix(".txt"))
    return first_file(candidates)


def _boxes(file: Path, names: tuple[str, ...] | None, tally: Tally) -> Boxes:
    boxes = BoxList((1, 1), tally)
    for line in text_lines(file):
        where = f"{file}, line {line.number}"
        fields = line.text.split()
        label = _label(fields[0], names, where)
        boxes.add(_corners(fields[1:], where), label, where)
    return boxes.boxes()


def _label(text: str, names: tuple[str, ...] | None, where: str) -> int:
    last = len(names) - 1 if names is not None else 9999
    # Some programs write 3.0 for 3.
    digits = text.removesuffix(".0")
    label = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 9 else -1
    if not 0 <= label <= last:
        raise DataError(f"{where}: expected a class from 0 to {last}, got '{text[:40]}'")
    return label


def _corners(fields: list[str], where: str) -> tuple[float, float, float, float]:
    try:
        numbers = [float(field) for field in fields]
    except ValueError as e:
        raise DataError(f"{where}: expected numbers after the class, got '{' '.join(fields)[:60]}'") from e
    outline = len(numbers) >= 6 and len(numbers) % 2 == 0
    if len(numbers) != 4 and not outline:
        raise DataError(f"{where}: expected 4 numbers after the class (cx cy width height), got {len(numbers)}")
    if not all(0 <= number <= _MAX_FRACTION for number in numbers):  # rejects NaN too
        raise DataError(
            f"{where}: expected fractions of the image, 0 to 1, got '{' '.join(fields)[:60]}'",
            hint="divide px by the image's width and height, such as 0.5 0.5 0.2 0.1",
        )
    if outline:
        return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])
    cx, cy, width, height = numbers
    return cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2


def _numbers(read: list[tuple[Path, Path, Boxes]]) -> tuple[str, ...]:
    last = max((int(boxes.classes.max(initial=-1)) for _, _, boxes in read), default=-1)
    return tuple(str(i) for i in range(last + 1))
