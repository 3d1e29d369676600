"""Detects the data set format of a path, reading as little as possible."""

from __future__ import annotations

from pathlib import Path

from edgekit.data.formats.coco_json import coco_json_files
from edgekit.data.formats.csv_table import is_table
from edgekit.data.formats.idx import is_idx_name
from edgekit.data.formats.image_folder import split_folders
from edgekit.data.formats.parallel_text import is_parallel_text
from edgekit.data.formats.voc import voc_root
from edgekit.data.formats.yolo_text import yolo_config
from edgekit.data.images import is_image
from edgekit.data.splits import SPLIT_NAMES
from edgekit.errors import DataError

__all__ = ["format_from_path"]

_EXPECTED = (
    "one of: folders of images, one per class; MNIST's IDX files; COCO's .json; VOC's Annotations; YOLO's images and "
    "labels; a .csv; a .tsv or .src and .tgt"
)


def format_from_path(path: Path) -> str:
    """Returns the format's name, which is also its path prefix: ``coco`` as in ``coco:annotations.json``.

    Raises:
        DataError: the format is not supported.
    """
    try:
        found = _of_folder(path) if path.is_dir() else _of_file(path)
    except OSError as e:
        raise DataError(f"{path}: expected a readable file or folder, got: {e.strerror or e}") from e
    if found is None:
        raise DataError(
            f"{path}: expected {_EXPECTED}; got {'a folder' if path.is_dir() else 'a file'} in an unknown format",
            hint="specify the format with a prefix, such as folder:PATH, idx:, coco:, voc:, yolo:, csv: or text:",
        )
    return found


def _of_file(path: Path) -> str | None:
    by_suffix = {".json": "coco", ".csv": "csv", ".yaml": "yolo", ".yml": "yolo", ".data": "yolo"}
    if is_idx_name(path.name):
        return "idx"
    if path.suffix in by_suffix:
        return by_suffix[path.suffix]
    if path.suffix in (".tsv", ".tab", ".txt", ".src", ".tgt"):
        return "csv" if is_table(path) else "text" if is_parallel_text(path) else None
    return None


def _of_folder(path: Path) -> str | None:
    inside = sorted(path.iterdir())
    names = {entry.name for entry in inside}
    if any(is_idx_name(name) for name in names):
        return "idx"
    if coco_json_files(path):
        return "coco"
    if voc_root(path) is not None:
        return "voc"
    if _is_yolo(path, names):
        return "yolo"
    if split_folders(path) or any(entry.is_dir() and any(map(is_image, entry.iterdir())) for entry in inside):
        return "folder"
    suffixes = {entry.suffix for entry in inside}
    if ".csv" in suffixes:
        return "csv"
    return "text" if suffixes & {".src", ".tsv"} else None


def _is_yolo(path: Path, names: set[str]) -> bool:
    if {"images", "labels"} <= names or yolo_config(path) is not None:
        return True
    words = [word for split in SPLIT_NAMES.values() for word in split]
    if any((path / word / "images").is_dir() and (path / word / "labels").is_dir() for word in words):
        return True
    return any(is_image(path / name) and (path / name).with_suffix(".txt").is_file() for name in names)
