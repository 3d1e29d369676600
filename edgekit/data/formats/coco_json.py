"""Reads COCO JSON: one file of images, boxes and categories; http://cocodataset.org/#format-data, object detection."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import msgspec

from edgekit.data.coco import COCO_NAMES, is_coco
from edgekit.data.detection_set import AnnotatedImage, BoxList, DetectionSet, Tally
from edgekit.data.examples import Choice
from edgekit.data.formats.text_lines import file_bytes, looks_like_html
from edgekit.data.splits import part_of, split_from_folder, split_from_name, split_path
from edgekit.errors import DataError
from edgekit.storage import first_file

__all__ = ["coco_from_path", "coco_json_files"]

# COCO's largest file, with 118,287 images and segmentation polygons, has 470 MB.
_MAX_BYTES = 4 << 30

_Id = int | str
_Side = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]

# Other files in COCO's annotations folder.
_WITHOUT_BOXES = ("captions", "person_keypoints", "stuff", "panoptic", "image_info")


class _Image(msgspec.Struct, frozen=True, gc=False):
    id: _Id
    file_name: str
    width: _Side
    height: _Side


class _Annotation(msgspec.Struct, frozen=True, gc=False):
    image_id: _Id
    category_id: _Id
    bbox: tuple[float, float, float, float]
    iscrowd: int | bool = 0


class _Category(msgspec.Struct, frozen=True, gc=False):
    id: _Id
    name: str


class _File(msgspec.Struct, frozen=True):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def coco_from_path(path: Path, choice: Choice) -> DetectionSet:
    """Opens a COCO data set: a JSON file, or a folder with one per split.

    The folder has COCO's own layout (``annotations/instances_val2017.json`` next to ``val2017/``) or that of a Roboflow
    export (``valid/_annotations.coco.json`` next to its images). If the file name contains a split other than the
    requested one, the matching file next to it is read; a file without a split in its name is split by a hash of its
    image names. Boxes are ``[x, y, width, height]``; crowds become `Boxes.ignored`. Classes are numbered in the order
    of the category ids.

    Raises:
        DataError: the file is not COCO JSON (names the field), a box is outside its image, or a category or image is
            not listed.
    """
    file = _annotation_file(path, choice)
    content = _parsed(file)
    labels, class_of = _classes(content.categories, file)
    tally = Tally()
    lists = _box_lists(content, tally, class_of, file)
    chosen = list(enumerate(content.images))
    if not _split_word(file):
        chosen = part_of(chosen, choice.split, lambda item: item[1].file_name)
    if not chosen:
        raise DataError(
            f"{file}: images: expected at least one for the {choice.split} split, got {len(content.images)}"
        )
    root = _image_root(file, content.images[0].file_name)
    images = [
        AnnotatedImage(
            root / image.file_name, lists[image.id].boxes(), (image.width, image.height), f"images[{i}] of {file.name}"
        )
        for i, image in chosen
    ]
    return DetectionSet(str(file), labels, images, tally.notes())


def coco_json_files(folder: Path) -> list[Path]:
    """Finds files named like COCO box annotations in a folder and its direct subfolders."""
    found = [*folder.glob("*.coco.json"), *folder.glob("*/*.coco.json")]
    found += [*folder.glob("instances_*.json"), *folder.glob("annotations/*.json")]
    return sorted({file for file in found if not file.name.startswith(_WITHOUT_BOXES)})


def _annotation_file(path: Path, choice: Choice) -> Path:
    if path.is_dir():
        files = coco_json_files(path) or _json_files(path)
    elif split_from_name(path.name) not in (choice.split, None):
        files = _json_files(path.parent)
    else:
        return path
    if len(files) == 1 and not _split_word(files[0]):
        return files[0]
    by_name = {_split_word(file) or file.name: file for file in reversed(files)}
    named = split_path([Path(name) for name in by_name], choice.split, f"{path}: COCO's JSON files")
    return by_name[named.name]


def _json_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.json") if not file.name.startswith(_WITHOUT_BOXES))


def _split_word(file: Path) -> str:
    """Returns the name that contains the split: the file's or, for ``valid/_annotations.coco.json``, its folder's."""
    return file.name if split_from_name(file.name) else file.parent.name if split_from_folder(file.parent) else ""


def _parsed(file: Path) -> _File:
    content = file_bytes(file, _MAX_BYTES)
    try:
        return msgspec.json.decode(content, type=_File)
    except msgspec.ValidationError as e:
        text, _, place = str(e).rpartition(" - at ")
        where = place.strip("`").removeprefix("$.").removeprefix("$") if text else ""
        raise DataError(f"{file}: {where or 'top level'}: {_plain(text or str(e))}") from e
    except RecursionError as e:
        raise DataError(f"{file}: expected COCO's JSON, got lists nested too deeply") from e
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        if looks_like_html(content):
            raise DataError(f"{file}: expected JSON, got a web page", hint="download the file itself") from e
        match = re.search(r"\(byte (\d+)\)", str(e))
        line = f", line {content[: int(match[1])].count(10) + 1}" if match else ""
        raise DataError(f"{file}{line}: expected JSON, got: {e}") from e


def _plain(text: str) -> str:
    return text[:1].lower() + text[1:].replace("Object ", "object ")


def _classes(categories: list[_Category], file: Path) -> tuple[tuple[str, ...], dict[_Id, int]]:
    if not categories:
        raise DataError(f"{file}: categories: expected at least one, got none")
    ids: set[_Id] = set()
    for i, category in enumerate(categories):
        if category.id in ids:
            raise DataError(f"{file}: categories[{i}].id: expected a unique id, got a duplicate: {category.id!r}")
        ids.add(category.id)
    ordered = sorted(categories, key=lambda category: (isinstance(category.id, str), category.id))
    names = tuple(category.name for category in ordered)
    return COCO_NAMES if is_coco(names) else names, {category.id: i for i, category in enumerate(ordered)}


def _box_lists(content: _File, tally: Tally, class_of: dict[_Id, int], file: Path) -> dict[_Id, BoxList]:
    lists: dict[_Id, BoxList] = {}
    for i, image in enumerate(content.images):
        if image.id in lists:
            raise DataError(f"{file}: images[{i}].id: expected a unique id, got a duplicate: {image.id!r}")
        lists[image.id] = BoxList((image.width, image.height), tally)
    for i, annotation in enumerate(content.annotations):
        where = f"{file}: annotations[{i}]"
        boxes, label = lists.get(annotation.image_id), class_of.get(annotation.category_id)
        if boxes is None:
            raise DataError(f"{where}.image_id: expected the id of an image, got {annotation.image_id!r}")
        if label is None:
            known = ", ".join(map(str, list(class_of)[:8])) + (", …" if len(class_of) > 8 else "")
            raise DataError(f"{where}.category_id: expected one of {known}, got {annotation.category_id!r}")
        x, y, width, height = annotation.bbox
        boxes.add((x, y, x + width, y + height), label, f"{where}.bbox", ignored=bool(annotation.iscrowd))
    return lists


def _image_root(file: Path, first: str) -> Path:
    """Finds the folder that the images' file names are relative to: the one that contains the first image."""
    split = re.sub(r"^instances_", "", file.stem)
    candidates = [file.parent, file.parent / "images", file.parent / split]
    candidates += [file.parent.parent / name for name in (split, "images", f"images/{split}", "")]
    for folder in candidates:
        if first_file([folder / first]):
            return folder
    searched = ", ".join(str(folder) for folder in candidates)
    raise DataError(
        f"{file}: images[0].file_name: expected a file in one of {searched}, got none named {first[:200]!r}"
    )
