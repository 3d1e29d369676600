"""Reads one annotation file of Pascal VOC: the file name and size of an image, and its objects."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from edgekit.data.detection_set import Corners
from edgekit.data.formats.unsupported import unsupported_format
from edgekit.data.formats.xml_tree import Element, element_from_file
from edgekit.errors import DataError

__all__ = ["VocAnnotation", "VocObject", "voc_annotation"]

_MAX_SIDE = 2**31 - 1


@dataclass(frozen=True)
class VocObject:
    """A box from an annotation file, with its corners as the file has them."""

    name: str
    corners: Corners
    difficult: bool
    line: int


@dataclass(frozen=True)
class VocAnnotation:
    """Contents of an annotation file.

    Attributes:
        file: the annotation file.
        filename: name of the image in the file; may be empty.
        size: width and height in px; None if the file does not have both.
        objects: the objects with a box.
        faulty: what is wrong with the other objects.
    """

    file: Path
    filename: str
    size: tuple[int, int] | None
    objects: tuple[VocObject, ...]
    faulty: tuple[DataError, ...] = ()


def voc_annotation(file: Path) -> VocAnnotation:
    """Reads an annotation file.

    Raises:
        DataError: the file cannot be read, or is no annotation; names the line.
    """
    root = element_from_file(file)
    if root.tag != "annotation":
        other = unsupported_format(file)
        got = f", as in {other.name}" if other else ""
        raise DataError(
            f"{file}, line {root.line}: expected <annotation>, got <{root.tag[:40]}>{got}",
            hint=other.hint if other else "",
        )
    name = root.find("filename")
    objects, faulty = list[VocObject](), list[DataError]()
    for element in root.all("object"):
        try:
            objects.append(_object(element, file))
        except DataError as e:
            faulty.append(e)
    return VocAnnotation(file, name.text if name else "", _size(root), tuple(objects), tuple(faulty))


def _size(root: Element) -> tuple[int, int] | None:
    """Returns the size in ``<size>``; None if a side is missing or not a number of pixels, as some programs write 0."""
    size = root.find("size")
    sides = [] if size is None else [_side(size.find(tag)) for tag in ("width", "height")]
    width, height = sides or (0, 0)
    return (width, height) if width and height else None


def _side(element: Element | None) -> int:
    try:
        number = float(element.text) if element is not None else 0.0
    except ValueError:
        return 0
    return int(number) if 1 <= number <= _MAX_SIDE and number == int(number) else 0


def _object(element: Element, file: Path) -> VocObject:
    name = _inner(element, "name", file)
    if not name.text:
        raise DataError(f"{file}, line {name.line}: expected a class name, got none")
    if (rotated := element.find("robndbox")) is not None and element.find("bndbox") is None:
        raise DataError(
            f"{file}, line {rotated.line}: expected <bndbox> in <object>, got a rotated box, <robndbox>",
            hint="export rotated boxes as YOLO's labels of four corners, which are read",
        )
    if (polygon := element.find("polygon")) is not None and element.find("bndbox") is None:
        raise DataError(
            f"{file}, line {polygon.line}: expected <bndbox> in <object>, got a <polygon> alone",
            hint="export boxes too, or export COCO's JSON, whose polygons are read",
        )
    box = _inner(element, "bndbox", file)
    x1, y1, x2, y2 = (_number(_inner(box, tag, file), file) for tag in ("xmin", "ymin", "xmax", "ymax"))
    difficult = element.find("difficult")
    return VocObject(name.text, (x1, y1, x2, y2), difficult is not None and difficult.text == "1", box.line)


def _inner(element: Element, tag: str, file: Path) -> Element:
    found = element.find(tag)
    if found is None:
        raise DataError(f"{file}, line {element.line}: expected <{tag}> in <{element.tag}>, got none")
    return found


def _number(element: Element, file: Path) -> float:
    try:
        number = float(element.text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{file}, line {element.line}: expected a number in <{element.tag}>, got '{element.text[:40]}'")
    return number
