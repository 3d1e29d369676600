"""Detects the data set format of a path, reading as little as possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from edgekit.data.files import files_below, files_in, folders_in
from edgekit.data.formats.coco_file import begins_like_coco
from edgekit.data.formats.coco_json import coco_json_files
from edgekit.data.formats.csv_table import is_table
from edgekit.data.formats.idx import is_idx_name
from edgekit.data.formats.image_folder import is_no_class, split_folders
from edgekit.data.formats.parallel_text import is_parallel_text
from edgekit.data.formats.unsupported import unsupported_format
from edgekit.data.formats.voc import voc_root
from edgekit.data.formats.yolo_source import has_labelled_images, yolo_configs, yolo_folders
from edgekit.data.images import image_suffixes, images_below
from edgekit.errors import DataError
from edgekit.text import some_of

__all__ = ["Detected", "format_from_path"]

_EXPECTED = (
    "one of: folders of images, one per class; MNIST's IDX files; COCO's .json; VOC's Annotations; YOLO's images and "
    "labels; a .csv; a .tsv or .src and .tgt"
)


_NOT_READ = ": only the images are read, and the folders are taken as classes"
_ANNOTATIONS = {"coco": "COCO's JSON", "voc": "VOC's XML", "yolo": "YOLO's text files"}


class Detected(NamedTuple):
    """A format.

    Attributes:
        format: its name, which is also its path prefix: ``coco`` as in ``coco:annotations.json``.
        notes: says which annotations are read, if a folder has those of several formats.
    """

    format: str
    notes: list[str]


def format_from_path(path: Path) -> Detected:
    """Returns the format of a file or a folder.

    Raises:
        DataError: the format is not supported.
    """
    try:
        found = _of_folder(path) if path.is_dir() else _of_file(path)
        notes = []
        if found in _ANNOTATIONS and path.is_dir():
            notes = _notes_on_others(path, found)
        elif found == "folder" and (note := _annotations_of_classes(folders_in(path))):
            notes = [note]
    except OSError as e:
        raise DataError(f"{e.filename or path}: expected a readable file or folder, got: {e.strerror or e}") from e
    if found is None:
        raise _unknown(path)
    return Detected(found, notes)


def _notes_on_others(path: Path, used: str) -> list[str]:
    others = [found for found in _annotations(path) if found != used]
    names = " and ".join(f"{_ANNOTATIONS[other]} ({other}:{path})" for other in others)
    return [f"{path} has annotations in several formats: {_ANNOTATIONS[used]} is read, not {names}"] if others else []


def _annotations_of_classes(folders: Sequence[Path]) -> str:
    """Returns a note on annotations that lie beside images in the folders of classes; empty if there are none.

    The first folders are searched: a data set may have thousands, and they are alike.
    """
    for folder in folders[:3]:
        if found := next(_annotations(folder), None):
            return f"{folder} has {_ANNOTATIONS[found]}{_NOT_READ}; give that folder alone to read its boxes"
        inner = [below for each in folders_in(folder)[:3] for below in (each, *folders_in(each)[:3])]
        for place in (folder, *inner):
            if other := unsupported_format(place, levels=1):
                return f"{place} has {other.name}{_NOT_READ}"
    return ""


def _unknown(path: Path) -> DataError:
    inner = _folder_below(path) if path.is_dir() else None
    other = unsupported_format(path) if inner is None else None
    if other is not None:
        return DataError(f"{path}: expected {_EXPECTED}; got {other.name}", hint=other.hint)
    if inner is None and path.is_dir() and files_in(path, *image_suffixes()):
        return DataError(
            f"{path}: expected {_EXPECTED}; got images without labels",
            hint="put the images of each class into a folder of its own, or label them with a tool that exports COCO, "
            "VOC or YOLO",
        )
    classes = _nested_classes(path) if path.is_dir() and (inner is None or _of_folder(inner) == "folder") else []
    if classes:
        return DataError(
            f"{path}: expected {_EXPECTED}; got folders whose images are in subfolders: {some_of(classes, 4)}",
            hint=f"if these folders are the classes, write folder:{path}; if each is a data set, choose one, such as "
            f"{path / classes[0]}",
        )
    if path.is_dir() and next(files_below(path), None) is None:
        return DataError(f"{path}: expected {_EXPECTED}; got a folder without files")
    what = "a folder" if path.is_dir() else "a file"
    hint = "specify the format with a prefix, such as folder:PATH, idx:, coco:, voc:, yolo:, csv: or text:"
    return DataError(
        f"{path}: expected {_EXPECTED}; got {what} in an unknown format",
        hint=f"use the folder {inner}" if inner else hint,
    )


def _nested_classes(path: Path) -> list[str]:
    """Returns the names of the folders with images in subfolders; none if there is one only, or one is no class."""
    names = [folder.name for folder in folders_in(path) if next(images_below(folder), None) is not None]
    return names if len(names) > 1 and not any(map(is_no_class, names)) else []


def _of_file(path: Path) -> str | None:
    by_suffix = {".json": "coco", ".csv": "csv", ".yaml": "yolo", ".yml": "yolo"}
    if is_idx_name(path.name):
        return "idx"
    if path.suffix.lower() in by_suffix:
        return by_suffix[path.suffix.lower()]
    if path.suffix.lower() == ".data":
        return "csv" if is_table(path) else "yolo"  # UCI's tables have Darknet's suffix
    if path.suffix.lower() in (".tsv", ".tab", ".dat", ".txt", ".src", ".tgt"):
        return "csv" if is_table(path) else "text" if is_parallel_text(path) else None
    return None


def _of_folder(path: Path) -> str | None:
    files, folders = files_in(path), folders_in(path)
    if any(is_idx_name(file.name) for file in files):
        return "idx"
    if annotations := next(_annotations(path), None):
        return annotations
    if split_folders(path):
        return "folder"
    with_images = [folder for folder in folders if files_in(folder, *image_suffixes())]
    # The only folder of a data set of boxes, which was packed with it, is no class.
    if with_images and (len(folders) > 1 or not _annotations_of_classes(folders)):
        return "folder"
    suffixes = {entry.suffix.lower() for entry in files}
    if ".csv" in suffixes:
        return "csv"
    return "text" if suffixes & {".src", ".tsv"} else None


def _annotations(path: Path) -> Iterator[str]:
    """Yields the formats of the annotations of boxes in a folder; the first one is read."""
    if coco_json_files(path):
        yield "coco"
    if voc_root(path) is not None:
        yield "voc"
    if _is_yolo(path, {entry.name for entry in (*files_in(path), *folders_in(path))}):
        yield "yolo"
    if any(begins_like_coco(file) for file in files_in(path, ".json")):
        yield "coco"


def _folder_below(path: Path) -> Path | None:
    """Returns the only data set below a folder; archives and torchvision put it one to three folders deeper."""
    level = folders_in(path)
    for _ in range(3):
        found = [folder for folder in level if _of_folder(folder) is not None]
        if found:
            return found[0] if len(found) == 1 else None
        level = [inner for folder in level for inner in folders_in(folder)]
    return None


def _is_yolo(path: Path, names: set[str]) -> bool:
    lower = {name.lower() for name in names}
    if "labels" in lower and lower & {"images", "jpegimages"} or yolo_configs(path):
        return True
    if yolo_folders(path, labelled=True):
        return True
    return "obj.names" in lower or has_labelled_images(path)
