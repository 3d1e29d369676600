"""Reads the lines of YOLO label files, and checks what only all lines of a data set show."""

from __future__ import annotations

import math
from pathlib import Path

from edgekit.data.detection_set import BoxList, Corners, Tally
from edgekit.data.examples import Boxes
from edgekit.data.formats.corner_boxes import CornerBoxes
from edgekit.data.formats.text_lines import text_lines
from edgekit.data.formats.unsupported import program_of_line
from edgekit.data.formats.yolo_classes import ClassNumbers
from edgekit.data.formats.yolo_long_lines import LongLines
from edgekit.data.formats.yolo_source import YoloSource
from edgekit.data.shapes import ObjectShape
from edgekit.errors import DataError

__all__ = ["YoloLines"]

_LONG_LINES = (
    "lines of predictions end with a score or a track id, which labels do not have; keypoints need kpt_shape in "
    "data.yaml; outlines have an even number of coordinates, six or more"
)
# Ultralytics accepts fractions from and up to these, to allow for rounding.
_MIN_FRACTION, _MAX_FRACTION = -0.01, 1.01


class YoloLines:
    """The lines of a data set's label files.

    Attributes:
        has_outlines: a line that was read has an outline.

    Args:
        source: has the class names and the number of key points.
        needed: the shapes that boxes get: ``masks``, ``keypoints``, or none if empty.
        tally: counts boxes and faulty lines.
    """

    def __init__(self, source: YoloSource, needed: str, tally: Tally) -> None:
        self._keypoints = source.keypoints
        self._needed = needed
        self._tally = tally
        self.has_outlines = False
        self._classes = ClassNumbers(source.names)
        self._long_lines = LongLines()
        self._forms = CornerBoxes("class cx cy width height", "write the center, the width and the height of each box")

    def boxes(self, file: Path | None) -> Boxes:
        """Returns the boxes of a label file, in fractions of the image; none without a file.

        Raises:
            DataError: the file is no text.
        """
        boxes, seen = BoxList((1, 1), self._tally), set[str]()
        for line in text_lines(file) if file is not None else ():
            where = f"{file}, line {line.number}"
            fields = line.text.split()
            if (text := " ".join(fields)) in seen:
                error = DataError(f"{where}: expected each box once, got a copy: '{text[:60]}'")
                self._tally.skip("copies of lines", error)
                continue
            seen.add(text)
            try:
                corners, label, shape = self._box(text, where)
            except DataError as e:
                self._tally.skip_faulty(e)
                continue
            boxes.add(corners, label, where, shape=shape)
        return boxes.boxes()

    def require_labels(self) -> None:
        """Checks what all lines together show, after the last file.

        Raises:
            DataError: classes begin at 1, boxes are two corners, or lines have key points or predictions.
        """
        self._classes.require_from_0()
        self._forms.require_sizes()
        self._long_lines.require_outlines()

    def _box(self, line: str, where: str) -> tuple[Corners, int, ObjectShape | None]:
        _require_yolo(line, where)
        first, *fields = line.split()
        label = self._classes.label(first, where)
        numbers = _numbers_of(fields, where)
        if len(numbers) > 4 and not self._keypoints[0]:
            self._long_lines.add(numbers, where)
        corners, outline = _corners(numbers, self._keypoints, where)
        self.has_outlines |= len(numbers) > 4 and not self._keypoints[0]
        if len(numbers) == 4:
            self._forms.add(numbers, corners, (1, 1), where)
        shape = _shape(numbers, outline, self._keypoints, self._needed, where) if self._needed else None
        return corners, label, shape


def _require_yolo(line: str, where: str) -> None:
    """Refuses lines of other programs: DOTA's corners in px would else be taken for a class and an outline."""
    if other := program_of_line(line):
        raise DataError(
            f"{where}: expected a class and numbers, got {other}",
            hint="write class cx cy width height, as fractions of the image, or export as COCO, VOC or YOLO",
        )


def _numbers_of(fields: list[str], where: str) -> list[float]:
    try:
        return [float(field) for field in fields]
    except ValueError as e:
        raise DataError(
            f"{where}: expected numbers after the class, got '{' '.join(fields)[:60]}'",
            hint="write numbers with a point, as in 0.5" if any("," in field for field in fields) else "",
        ) from e


def _corners(numbers: list[float], keypoints: tuple[int, int], where: str) -> tuple[Corners, list[float]]:
    """Returns the corners of a line's box, and its outline."""
    keypoint_numbers = math.prod(keypoints)
    if keypoint_numbers and len(numbers) == 4 + keypoint_numbers:
        numbers = numbers[:4]
    outline = not keypoint_numbers and len(numbers) >= 6 and len(numbers) % 2 == 0
    if len(numbers) != 4 and not outline:
        more = f", or {4 + keypoint_numbers} with the key points of kpt_shape" if keypoint_numbers else ""
        raise DataError(
            f"{where}: expected 4 numbers after the class (cx cy width height){more}, got {len(numbers)}",
            hint=_LONG_LINES if len(numbers) > 4 else "",
        )
    if not all(_MIN_FRACTION <= number <= _MAX_FRACTION for number in numbers):  # rejects NaN too
        raise DataError(
            f"{where}: expected fractions of the image, 0 to 1, got '{' '.join(f'{n:g}' for n in numbers)[:60]}'",
            hint="divide px by the image's width and height, such as 0.5 0.5 0.2 0.1",
        )
    if outline:
        return (min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])), numbers
    cx, cy, width, height = numbers
    x1, y1, x2, y2 = cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2
    return (x1, y1, x2, y2), [x1, y1, x2, y1, x2, y2, x1, y2]


def _shape(
    numbers: list[float], outline: list[float], keypoints: tuple[int, int], needed: str, where: str
) -> ObjectShape:
    """Returns what a line says about its object beside the box; the area of a pose is 0.53 of its box.

    That is the share of Ultralytics' validation, since lines with keypoints have no mask.
    """
    if needed == "masks":
        return ObjectShape([outline])
    count, values = keypoints
    if len(numbers) != 4 + count * values:
        raise DataError(f"{where}: expected {4 + count * values} numbers after the class, got {len(numbers)}")
    points: list[float] = []
    for i in range(4, len(numbers), values):
        x, y = numbers[i : i + 2]
        points += [x, y, numbers[i + 2] if values == 3 else float(x >= 0 and y >= 0)]
    return ObjectShape(None, tuple(points), 0.53 * numbers[2] * numbers[3])
