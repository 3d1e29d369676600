"""Finds the ids that a COCO annotation file next to images gives them, for results that COCO's tools read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.data.detection_set import Tally
from edgekit.data.formats.coco_file import CocoFile, Id, coco_file, names_of_categories
from edgekit.data.formats.coco_json import coco_json_files
from edgekit.errors import DataError

__all__ = ["CocoIds", "ids_in_file", "ids_of_images"]


@dataclass(frozen=True)
class CocoIds:
    """Ids in an annotation file.

    Attributes:
        file: the annotation file.
        images: id of each image.
        categories: id of each category by its name in lower case.
    """

    file: Path
    images: dict[Path, Id]
    categories: dict[str, Id]


def ids_of_images(images: Sequence[Path], folder: Path) -> CocoIds | None:
    """Returns the ids of images in the COCO file that lists them all; None if there is none, or several differ.

    Args:
        images: the images, all in one folder.
        folder: their folder; files in it and in its parent folder are read, if they are named as COCO files are.
    """
    found = [ids for file in _files(folder) if (ids := _ids(file, images)) is not None]
    return found[0] if found and all(each.images == found[0].images for each in found) else None


def ids_in_file(file: Path, images: Sequence[Path]) -> CocoIds:
    """Returns the ids that a COCO file gives images, by their file names.

    Raises:
        DataError: the file is not COCO JSON, or does not list an image.
    """
    content = coco_file(file)
    names = names_of_categories(content, file, Tally())
    by_name = _images_by_name(content)
    missing = [image for image in images if image.name not in by_name]
    if missing:
        raise DataError(
            f"{file}: expected an entry for each of {len(images)} images, got none, or several, for {len(missing)} of "
            f"them, such as {missing[0]}"
        )
    chosen = {image: by_name[image.name] for image in images}
    return CocoIds(file, chosen, {name.strip().casefold(): key for key, name in names.items()})


def _files(folder: Path) -> list[Path]:
    try:
        return list(dict.fromkeys([*coco_json_files(folder), *coco_json_files(folder.absolute().parent)]))
    except DataError:  # a folder that may not be read has no annotations for this user
        return []


def _ids(file: Path, images: Sequence[Path]) -> CocoIds | None:
    try:
        return ids_in_file(file, images)
    except DataError:  # another kind of JSON, or of other images
        return None


def _images_by_name(content: CocoFile) -> dict[str, Id]:
    found: dict[str, Id] = {}
    repeated: set[str] = set()
    for image in content.images:
        name = image.file_name.replace("\\", "/").rpartition("/")[2]
        repeated |= {name} if found.setdefault(name, image.id) != image.id else set()
    return {name: key for name, key in found.items() if name not in repeated}
