"""The contents of a COCO JSON file: http://cocodataset.org/#format-data, object detection."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgekit.data.detection_set import Tally
from edgekit.data.formats.text_lines import file_bytes, looks_like_html, utf8_bytes
from edgekit.data.formats.unsupported import unsupported_format
from edgekit.errors import DataError

__all__ = [
    "Annotation",
    "BACKGROUND_NAMES",
    "CocoFile",
    "Id",
    "Image",
    "ShapedAnnotation",
    "begins_like_coco",
    "coco_file",
    "names_of_categories",
    "same_id",
]

# COCO's largest file, with 118,287 images and segmentation polygons, has 470 MB.
_MAX_BYTES = 4 << 30
# Python's json module writes these words, which are not JSON, for floats; they begin a value, as no text does.
_NOT_A_NUMBER = re.compile(rb"([:\[,]\s*)(?:NaN|-?Infinity)(?=\s*[,\]}])")
_START_BYTES = 1 << 16
_MAX_SIDE = 2**31 - 1

_TYPES = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a number",
    "null": "nothing",
    "object": "an object",
    "str": "a text",
}
"""JSON's types in words."""
_MISSING = "\0"  # no file has this name

BACKGROUND_NAMES = frozenset({"__background__", "__ignore__", "_background_", "background"})
"""Names of no class, which segmentation tools (labelme, CVAT) list with the classes."""

Id = int | float | str


class Image(msgspec.Struct, frozen=True, gc=False):
    """One image; the size may be missing, or be 0 or a text in files of other programs.

    LVIS has no file names, but addresses that end in a folder and a name, such as ``train2017/000000391895.jpg``.
    """

    id: Id
    file_name: str = _MISSING
    coco_url: str | None = None
    width: int | float | str | None = None
    height: int | float | str | None = None

    def __post_init__(self) -> None:
        if self.file_name == _MISSING:
            if not self.coco_url:
                raise ValueError("object missing required field `file_name`")
            msgspec.structs.force_setattr(self, "file_name", "/".join(self.coco_url.split("/")[-2:]))

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in px; None if the file does not have both."""
        width, height = _side(self.width), _side(self.height)
        return (width, height) if width and height else None


class Annotation(msgspec.Struct, frozen=True, gc=False):
    """One box, ``[x, y, width, height]`` in px unless ``bbox_mode`` says otherwise, and its category."""

    image_id: Id
    category_id: Id
    bbox: list[float | str | None] | None = None
    iscrowd: int | bool | float | str | None = 0
    id: Id | None = None
    bbox_mode: int | float | str | None = None

    @property
    def content(self) -> tuple[Any, ...]:
        """Everything in it, as a hashable value."""
        return self.id, self.image_id, self.category_id, tuple(self.bbox or ()), self.bbox_mode

    @property
    def is_crowd(self) -> bool:
        """Whether it is a box of a group of objects."""
        return str(self.iscrowd).lower() not in ("0", "0.0", "none", "false", "")


class ShapedAnnotation(Annotation, frozen=True, gc=False):
    """A box with its mask, which stays JSON, and its key points."""

    segmentation: msgspec.Raw = msgspec.Raw()
    keypoints: list[float] | None = None
    area: float | None = None


class _Category(msgspec.Struct, frozen=True, gc=False):
    id: Id
    name: str | int
    supercategory: Any = None


class CocoFile(msgspec.Struct, frozen=True):
    """A COCO JSON file; other fields are ignored."""

    images: list[Image]
    annotations: Sequence[Annotation]
    categories: list[_Category]


class _ShapedFile(CocoFile, frozen=True):
    annotations: list[ShapedAnnotation]


def coco_file(file: Path, *, shapes: bool = False) -> CocoFile:
    """Reads a COCO JSON file.

    Args:
        file: the file.
        shapes: read masks and key points too: annotations are `ShapedAnnotation`.

    Raises:
        DataError: the file cannot be read or is not COCO JSON; names the field or the line.
    """
    content = utf8_bytes(file_bytes(file, _MAX_BYTES))
    kind = _ShapedFile if shapes else CocoFile
    try:
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            replaced, count = _NOT_A_NUMBER.subn(rb"\1null", content)
            if not count:
                raise
            return msgspec.json.decode(replaced, type=kind)
    except msgspec.ValidationError as e:
        text, _, place = str(e).rpartition(" - at ")
        where = place.strip("`").removeprefix("$.").removeprefix("$") if text else ""
        other = unsupported_format(file)
        if other is not None:
            raise DataError(f"{file}: expected COCO's JSON, got {other.name}", hint=other.hint) from e
        hint = "" if where else "COCO's JSON is an object with the lists images, annotations and categories"
        raise DataError(f"{file}: {where or 'top level'}: {_plain(text or str(e))}", hint=hint) from e
    except RecursionError as e:
        raise DataError(f"{file}: expected COCO's JSON, got lists nested too deeply") from e
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        if looks_like_html(content):
            raise DataError(f"{file}: expected JSON, got a web page", hint="download the file itself") from e
        other = unsupported_format(file)
        if other is not None:
            raise DataError(f"{file}: expected JSON, got {other.name}", hint=other.hint) from e
        match = re.search(r"\(byte (\d+)\)", str(e))
        line = f", line {content[: int(match[1])].count(10) + 1}" if match else ""
        raise DataError(f"{file}{line}: expected JSON, got: {e}") from e


def begins_like_coco(path: Path) -> bool:
    """Whether a file begins like COCO JSON; those of labelme and VIA have other fields.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = utf8_bytes(file.read(_START_BYTES)).lstrip()
    return start.startswith(b"{") and (b'"file_name"' in start or b'"image_id"' in start)


def same_id(value: Id) -> Id:
    """Returns an id in one form: programs that convert tables write 7 in one list as ``7.0`` or ``"7"`` in another."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value) if str(int(value)) == value else value
    return value


def names_of_categories(content: CocoFile, file: Path, tally: Tally) -> dict[Id, str]:
    """Returns the class name of each category id, in the order of the ids.

    Without the categories that are no classes: Roboflow's root, which has id 0 and the project's name and is the
    supercategory of all others, and labelme's ``_background_``. They are classes if an annotation uses them.

    Args:
        content: the file's content.
        file: the file, for messages.
        tally: counts duplicates of categories, and those of one name, which are one class.

    Raises:
        DataError: there are no categories.
    """
    if not content.categories:
        raise DataError(f"{file}: categories: expected at least one, got none")
    first: dict[Id, _Category] = {}
    for i, category in enumerate(content.categories):
        if category.id in first:
            message = f"{file}: categories[{i}].id: expected a unique id, got a duplicate: {category.id!r}"
            tally.skip("categories whose id is a duplicate", DataError(message))
        first.setdefault(category.id, category)
    used = {same_id(annotation.category_id) for annotation in content.annotations}
    ordered = sorted(first.values(), key=lambda category: _order(category.id))
    parents = Counter(category.supercategory for category in ordered if isinstance(category.supercategory, str))
    classes = [category for category in ordered if same_id(category.id) in used or not _is_no_class(category, parents)]
    for name, count in Counter(str(category.name) for category in classes).items():
        if count > 1:
            ids = ", ".join(str(category.id) for category in classes if str(category.name) == name)
            tally.remarks.append(f"{file.name}: categories {ids} are all called '{name}': taken as one class")
    return {category.id: str(category.name) for category in classes or ordered}


def _order(value: Id) -> tuple[bool, Id]:
    number = same_id(value)
    return isinstance(number, str), number


def _is_no_class(category: _Category, parents: Counter[str]) -> bool:
    """Whether a category that no annotation uses only groups others, or stands for no object."""
    name, above = str(category.name), category.supercategory
    if name.lower() in BACKGROUND_NAMES:
        return True
    return above in (None, "", "none", name) and parents[name] > (above == name)


def _side(value: int | float | str | None) -> int | None:
    try:
        number = float(value or 0)
    except ValueError:
        return None
    return int(number) if 1 <= number <= _MAX_SIDE and number == int(number) else None


def _plain(text: str) -> str:
    """Returns a message of msgspec in small letters, and with JSON's types in words."""
    text = text[:1].lower() + text[1:].replace("Object ", "object ")
    return re.sub(r"(?<=expected )`([a-z |]+)`|(?<=got )`([a-z |]+)`", _in_words, text)


def _in_words(found: re.Match[str]) -> str:
    names = (found[1] or found[2]).split(" | ")
    words = dict.fromkeys(_TYPES.get(name, name) for name in names if len(names) == 1 or name != "null")
    return " or ".join(words)
