"""Pictures with boxes, whichever format told them: the index, the checks of the boxes, and reading on use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgekit.data.examples import Boxes, Example
from edgekit.data.images import read_image
from edgekit.errors import DataError
from edgekit.recipe.schema import Task

__all__ = ["AnnotatedPicture", "BoxList", "DetectionSet", "Tally", "empty_classes"]

Corners = tuple[float, float, float, float]


@dataclass
class Tally:
    """What was mended or left out while the boxes of a set were read.

    Attributes:
        clipped: boxes that stuck out of their picture.
        flat: boxes without area.
        ignored: crowds and difficult objects.
    """

    clipped: int = 0
    flat: int = 0
    ignored: int = 0

    def notes(self) -> list[str]:
        """A sentence on each that has happened."""
        said = (
            (self.clipped, "boxes stuck out of their picture and were clipped to it"),
            (self.flat, "boxes had no area and were left out"),
            (self.ignored, "boxes of crowds or difficult objects are neither right nor wrong"),
        )
        return [f"{count:,} {what}" for count, what in said if count]


@dataclass
class BoxList:
    """The boxes of one picture while they are being read.

    A box that sticks out of its picture is clipped, since annotations are rounded, and one without area is left out, as
    the loaders of COCO do; both are counted. One that lies outside altogether, or whose corners are exchanged, was
    written in other units or by a faulty program, and is an error.

    Attributes:
        size: width and height of the picture in px; ``(1, 1)`` if corners are fractions of it.
        tally: counts what is mended.
    """

    size: tuple[float, float]
    tally: Tally
    _corners: list[Corners] = field(default_factory=list)
    _classes: list[int] = field(default_factory=list)
    _ignored: list[bool] = field(default_factory=list)

    def add(self, corners: Corners, label: int, where: str, *, ignored: bool = False) -> None:
        """Takes a box after the checks.

        Raises:
            DataError: the box cannot be; ``where`` names the place of it.
        """
        x1, y1, x2, y2 = corners
        width, height = self.size
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            mended = self._mended(corners, where)
            if mended is None:
                return
            corners = mended
        self.tally.ignored += ignored
        self._corners.append(corners)
        self._classes.append(label)
        self._ignored.append(ignored)

    def _mended(self, corners: Corners, where: str) -> Corners | None:
        """The corners of a box that is not inside, clipped; None if it has no area."""
        x1, y1, x2, y2 = corners
        width, height = self.size
        shown = ", ".join(f"{number:.6g}" for number in corners)
        if not all(map(math.isfinite, corners)):
            raise DataError(f"{where}: expected finite numbers for a box, got the corners ({shown})")
        if x1 > x2 or y1 > y2:
            raise DataError(f"{where}: expected x1 <= x2 and y1 <= y2, got the corners ({shown})")
        if x1 == x2 or y1 == y2:
            self.tally.flat += 1
            return None
        inside = (max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height))
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            raise DataError(
                f"{where}: expected a box in the picture of {width:g} x {height:g}, got one outside it: ({shown})"
            )
        # Less than this is the last digit of a rounded number, and nothing to tell.
        self.tally.clipped += max(abs(a - b) for a, b in zip(inside, corners, strict=True)) > 1e-4 * max(self.size)
        return inside

    def boxes(self) -> Boxes:
        """The boxes that were added."""
        corners = np.array(self._corners, np.float32).reshape(-1, 4)
        classes = np.array(self._classes, np.int64)
        ignored = np.array(self._ignored, bool)
        # In single precision the sides of a sliver can meet.
        solid = (corners[:, :2] < corners[:, 2:]).all(1)
        self.tally.flat += int((~solid).sum())
        counted, left_aside = solid & ~ignored, solid & ignored
        aside = Boxes(corners[left_aside], classes[left_aside]) if left_aside.any() else None
        return Boxes(corners[counted], classes[counted], aside)


@dataclass(frozen=True, eq=False)
class AnnotatedPicture:
    """A picture's file and what its annotation says.

    Attributes:
        path: the picture.
        boxes: in px, or in fractions of the picture.
        size: width and height in px as the annotation has them; None if it does not tell, and boxes are fractions.
        where: the annotation's place, for messages.
    """

    path: Path
    boxes: Boxes
    size: tuple[int, int] | None
    where: str


class DetectionSet:
    """Pictures with boxes; pictures are read on use, boxes are in memory."""

    task: Task = "detect"

    def __init__(
        self, name: str, labels: tuple[str, ...], pictures: Sequence[AnnotatedPicture], notes: Sequence[str]
    ) -> None:
        """Takes the pictures with their boxes.

        Raises:
            DataError: there are none.
        """
        if not pictures:
            raise DataError(f"{name}: expected at least one picture, got none")
        self.name = name
        self.labels = labels
        self._pictures = tuple(pictures)
        counts = np.zeros(len(labels), np.int64)
        for picture in pictures:
            counts += np.bincount(picture.boxes.classes, minlength=len(labels))
        self.notes = [*notes, *empty_classes([labels[i] for i in np.flatnonzero(counts == 0)], "boxes")]

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Example:
        entry = self._pictures[index]
        picture = read_image(entry.path)
        height, width = picture.shape[:2]
        if entry.size is None:
            return Example(entry.path.name, picture, _scaled(entry.boxes, width, height))
        if entry.size != (width, height):
            raise DataError(
                f"{entry.path}: expected {entry.size[0]} x {entry.size[1]} px, as {entry.where} says, got {width} x "
                f"{height}",
                hint="its EXIF turns it; store it upright" if entry.size == (height, width) else "",
            )
        return Example(entry.path.name, picture, entry.boxes)


def empty_classes(names: Sequence[str], what: str) -> list[str]:
    """A note on the classes that have none of ``what``, unless there are no such classes."""
    if not names:
        return []
    some = ", ".join(f"'{name}'" for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return [f"no {what} in this split: {some}"]


def _scaled(boxes: Boxes, width: int, height: int) -> Boxes:
    corners = (boxes.corners * np.array([width, height, width, height], np.float64)).astype(np.float32)
    return Boxes(corners, boxes.classes, _scaled(boxes.ignored, width, height) if boxes.ignored else None)
