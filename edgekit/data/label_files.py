"""Reads class names from the files that other programs write them to."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.data.detection_set import Tally
from edgekit.data.formats.coco_file import coco_file, names_of_categories
from edgekit.data.formats.text_lines import file_bytes, text_lines, utf8_bytes, without_numbers
from edgekit.data.formats.yolo_source import names_from_config
from edgekit.errors import DataError

__all__ = ["labels_from_file"]

_MAX_BYTES = 4 << 30
_CONFIGS = (".yaml", ".yml", ".data")
_IN_CONFIG = "id2label"
_JSON_HINT = 'write a list of the names, such as ["cat", "dog"], or a text file with one per line'


def labels_from_file(path: Path) -> tuple[str, ...]:
    """Reads the class names of a model, in the order of its classes.

    Args:
        path: a text file with one name per line (``coco.names``, ``classes.txt``); a YOLO ``data.yaml`` or Darknet
            ``obj.data``; COCO JSON, whose classes are ordered by category id; a JSON list of names, or a JSON object
            with a name for each number, by itself or as ``id2label`` in a Hugging Face ``config.json``.

    Raises:
        DataError: the file cannot be read, or has no names.
    """
    suffix = path.suffix.lower()
    if suffix in _CONFIGS:
        names = names_from_config(path)
    elif suffix == ".json":
        names = _names_from_json(path)
    else:
        # A name may stand twice, as "crane" in ImageNet's list.
        names = without_numbers(tuple(line.text.strip() for line in text_lines(path)))
    if not names:
        raise DataError(f"{path}: expected class names, got none")
    return names


def _names_from_json(path: Path) -> tuple[str, ...]:
    content = utf8_bytes(file_bytes(path, _MAX_BYTES))
    try:
        found = msgspec.json.decode(content, type=list[str] | dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as e:
        raise DataError(f"{path}: expected COCO's JSON, or a JSON list of names, got: {e}", hint=_JSON_HINT) from e
    if isinstance(found, list):
        return tuple(found)
    if "categories" in found:
        return tuple(dict.fromkeys(names_of_categories(coco_file(path), path, Tally()).values()))
    try:
        if _IN_CONFIG in found:
            found = msgspec.json.decode(found[_IN_CONFIG], type=dict[str, msgspec.Raw])
        by_number = {int(key): msgspec.json.decode(value, type=str) for key, value in found.items()}
    except (msgspec.MsgspecError, ValueError) as e:
        raise DataError(f"{path}: expected COCO's JSON, or names by number, got other fields", hint=_JSON_HINT) from e
    if sorted(by_number) != list(range(len(by_number))):
        raise DataError(f"{path}: expected a name for each number from 0 to {len(by_number) - 1}, got others")
    return tuple(by_number[i] for i in range(len(by_number)))
