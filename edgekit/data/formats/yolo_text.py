"""YOLO's text files: one a picture, a line a box, ``class cx cy width height`` in fractions of the picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.data.detection_set import AnnotatedPicture, BoxList, DetectionSet, Tally
from edgekit.data.examples import Boxes, Choice, Split
from edgekit.data.formats.text_lines import names_in, text_lines
from edgekit.data.formats.yolo_yaml import names_from_value, settings_from_data, settings_from_yaml
from edgekit.data.images import is_image
from edgekit.data.paths import first_file, is_there
from edgekit.data.splits import SPLIT_NAMES, part_of
from edgekit.errors import DataError

__all__ = ["yolo_config", "yolo_from_path"]

_NAME_FILES = ("classes.txt", "obj.names", "labels.txt", "classes.names")
# Ultralytics takes a fraction up to this for rounding.
_MOST = 1.01


@dataclass(frozen=True)
class _Source:
    """Where the pictures are, and what the classes are called.

    Attributes:
        pictures: folders, or files that list paths, of each split; of ``all`` where nothing tells splits.
        names: None where no file tells them.
    """

    pictures: Mapping[Split | Literal["all"], tuple[Path, ...]]
    names: tuple[str, ...] | None


def yolo_from_path(path: Path, choice: Choice) -> DetectionSet:
    """The set of a ``data.yaml`` or ``obj.data``, or in a folder that has one, or ``images`` and ``labels``.

    The text of ``images/train/1.jpg`` is ``labels/train/1.txt``, or ``1.txt`` beside it. A picture without one shows
    none of the classes, as Darknet and Ultralytics take it; how many there are is noted. A line of more than five
    numbers is an outline, of which the box around it is taken. Without splits, a fifth of the pictures is the test;
    without names, classes are called by their numbers.

    Raises:
        DataError: no pictures; a line that is no box, or of a class beyond the names; or a box outside its picture;
            names file and line.
    """
    source = _from_config(path) if path.is_file() else _from_folder(path)
    if choice.split in source.pictures:
        pictures = _listed(source.pictures[choice.split])
    elif "all" in source.pictures:
        pictures = part_of(_listed(source.pictures["all"]), choice.split, lambda file: file.stem)
    else:
        wanted = " or ".join(SPLIT_NAMES[choice.split])
        raise DataError(f"{path}: expected pictures of the {choice.split} split ({wanted}), got none")
    tally, missing = Tally(), 0
    read: list[tuple[Path, Path, Boxes]] = []
    for picture in pictures:
        text = _label_path(picture)
        missing += text is None
        boxes = _boxes(text, source.names, tally) if text else BoxList((1, 1), tally).boxes()
        read.append((picture, text or picture, boxes))
    if missing == len(pictures):
        raise DataError(f"{path}: expected files in labels/ that are called as those in images/, got none")
    names = source.names or _numbers(read)
    entries = [AnnotatedPicture(picture, boxes, None, text.name) for picture, text, boxes in read]
    notes = tally.notes()
    if missing:
        notes.append(f"{missing:,} pictures have no text file, and so show none of the classes")
    if source.names is None:
        notes.append(f"no data.yaml or classes.txt names the classes, so they are called 0 to {len(names) - 1}")
    return DetectionSet(str(path), names, entries, notes)


def yolo_config(folder: Path) -> Path | None:
    """The file of a folder that says where pictures are and what the classes are called; None if there is none."""
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
    pictures: dict[Split | Literal["all"], tuple[Path, ...]] = {}
    for split, words in SPLIT_NAMES.items():
        # What is called test often has no labels where there is a val, so val comes first here.
        for key in ("val", "valid", *words) if split == "test" else words:
            if settings.get(key) and split not in pictures:
                pictures[split] = tuple(_place(file, root, key, value) for value in _values(settings[key]))
    if not pictures:
        folder = _from_folder(root, looked=True)
        pictures = dict(folder.pictures)
    if darknet and isinstance(named := settings.get("names"), str):
        names = names_in(_place(file, root, "names", named))
    else:
        names = names_from_value(settings.get("names"), file)
    key = "classes" if darknet else "nc"
    said = settings.get(key, str(len(names)))
    if said != str(len(names)):
        raise DataError(f"{file}: {key}: expected {len(names)}, as there are so many names, got {str(said)[:40]!r}")
    return _Source(pictures, names)


def _from_folder(root: Path, *, looked: bool = False) -> _Source:
    if not looked and (config := yolo_config(root)):
        return _from_config(config)
    named = first_file(root / name for name in _NAME_FILES)
    pictures: dict[Split | Literal["all"], tuple[Path, ...]] = {}
    for split, words in SPLIT_NAMES.items():
        for word in words:
            for folder in (root / "images" / word, root / word / "images"):
                if folder.is_dir() and split not in pictures:
                    pictures[split] = (folder,)
    if not pictures:
        pictures["all"] = (root / "images" if (root / "images").is_dir() else root,)
    return _Source(pictures, names_in(named) if named else None)


def _values(value: object) -> list[str]:
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]


def _place(file: Path, root: Path, key: str, value: str) -> Path:
    """A path that a configuration names, from its own folder or the root; Roboflow writes one ``../`` too many."""
    candidates = [root / value, file.parent / value, root / value.removeprefix("../"), Path(value)]
    for path in candidates:
        if is_there(path):
            return path
    raise DataError(f"{file}: {key}: expected a file or a folder, got nothing there: {value[:200]}")


def _listed(places: tuple[Path, ...]) -> list[Path]:
    """The pictures of folders, and of text files that list them."""
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            found += sorted(path for path in place.rglob("*") if is_image(path))
        else:
            found += _from_list(place)
    if not found:
        raise DataError(f"{', '.join(map(str, places))}: expected pictures, got none")
    return found


def _from_list(file: Path) -> Iterator[Path]:
    for line in text_lines(file):
        path = Path(line.text.strip())
        path = path if path.is_absolute() else file.parent / path
        if first_file([path]) is None:
            raise DataError(
                f"{file}, line {line.number}: expected the path of a picture, got {line.text.strip()[:200]}"
            )
        yield path


def _label_path(picture: Path) -> Path | None:
    parts = list(picture.parts)
    candidates = [picture.with_suffix(".txt")]
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
    most = len(names) - 1 if names is not None else 9999
    # Some programs write 3.0 for 3.
    digits = text.removesuffix(".0")
    label = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 9 else -1
    if not 0 <= label <= most:
        raise DataError(f"{where}: expected a class from 0 to {most}, got '{text[:40]}'")
    return label


def _corners(fields: list[str], where: str) -> tuple[float, float, float, float]:
    try:
        numbers = [float(field) for field in fields]
    except ValueError as e:
        raise DataError(f"{where}: expected numbers after the class, got '{' '.join(fields)[:60]}'") from e
    outline = len(numbers) >= 6 and len(numbers) % 2 == 0
    if len(numbers) != 4 and not outline:
        raise DataError(f"{where}: expected 4 numbers after the class (cx cy width height), got {len(numbers)}")
    if not all(0 <= number <= _MOST for number in numbers):  # holds for no NaN either
        raise DataError(
            f"{where}: expected fractions of the picture, 0 to 1, got '{' '.join(fields)[:60]}'",
            hint="px are divided by the picture's width and height, such as 0.5 0.5 0.2 0.1",
        )
    if outline:
        return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])
    cx, cy, width, height = numbers
    return cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2


def _numbers(read: list[tuple[Path, Path, Boxes]]) -> tuple[str, ...]:
    most = max((int(boxes.classes.max(initial=-1)) for _, _, boxes in read), default=-1)
    return tuple(str(i) for i in range(most + 1))
