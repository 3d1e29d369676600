"""Detection data sets, common to all annotation formats: box checks, the index, and reading images on access."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgekit.data.examples import Boxes, Example, Split
from edgekit.data.images import read_image
from edgekit.data.shapes import ObjectShape, decoded_shape, scaled_shape
from edgekit.errors import DataError
from edgekit.recipe.schema import Task

__all__ = ["AnnotatedImage", "BoxList", "DetectionSet", "Tally", "empty_classes"]

Corners = tuple[float, float, float, float]


@dataclass
class Tally:
    """Counts boxes that were corrected, and records that were skipped, while a data set was read.

    Attributes:
        clipped: boxes that extended beyond their image.
        flat: boxes without area.
        derived: boxes that the file lacks, read as those around its masks.
        ignored: crowds and difficult objects.
        kept: boxes that were read, in all images.
        moved: paths that were found without their first folders; see `edgekit.data.files.Finder`.
        remarks: further notes.
    """

    clipped: int = 0
    flat: int = 0
    derived: int = 0
    ignored: int = 0
    kept: int = 0
    moved: int = 0
    remarks: list[str] = field(default_factory=list)
    _furthest_px: float = 0.0
    _first: str = ""
    _skipped: dict[str, tuple[int, DataError]] = field(default_factory=dict)
    _lost: list[DataError] = field(default_factory=list)
    _faulty: int = 0

    def skip(self, what: str, error: DataError, *, is_box: bool = False) -> None:
        """Counts a record that is left out.

        Args:
            what: what was skipped and why, in the plural: "annotations of unlisted images".
            error: what is wrong with it; the note quotes the first.
            is_box: the record is a box, so that a data set without any other is refused.
        """
        count, first = self._skipped.get(what, (0, error))
        self._skipped[what] = count + 1, first
        if is_box and not self._lost:
            self._lost.append(error)

    def skip_faulty(self, error: DataError) -> None:
        """Counts a box that is left out because its numbers or its class are wrong."""
        self._faulty += 1
        self.skip("faulty boxes", error, is_box=True)

    def keep(self, corners: Corners, size: tuple[float, float], where: str) -> None:
        """Counts a box of an image of ``size``."""
        self.kept += 1
        self._first = self._first or where
        if size != (1, 1):
            self._furthest_px = max(self._furthest_px, corners[2], corners[3])

    def require_boxes(self) -> None:
        """Checks that not most boxes are faulty, and that not all were skipped.

        Single faulty boxes are mistakes; if most are, they have other units or another format, and if all boxes are in
        the first px of their images, they are fractions.

        Raises:
            DataError: the first error.
        """
        if 0 < self._furthest_px <= 1:
            raise DataError(
                f"{self._first}: expected corners in px, got fractions of the image: all boxes are in the first px",
                hint="multiply them by the width and the height of the image",
            )
        if self._faulty > self.kept:
            raise self._skipped["faulty boxes"][1]
        if self._lost and not self.kept:
            raise self._lost[0]

    def notes(self) -> list[str]:
        """One note per nonzero count, in a form that suits one and many."""
        counts = (
            (self.clipped, "boxes beyond their image", "clipped to it"),
            (self.flat, "boxes without area", "dropped"),
            (self.ignored, "boxes of crowds or difficult objects", "ignored"),
            (self.derived, "annotations with a segmentation and no bbox", "read with the box around the segmentation"),
            (self.moved, "paths whose first folders do not exist here", "found without them"),
        )
        notes = self.remarks + [f"{what}: {count:,} {done}" for count, what, done in counts if count]
        skipped = self._skipped.items()
        return notes + [f"{what}: {count:,} skipped; the first: {error.message}" for what, (count, error) in skipped]


@dataclass
class BoxList:
    """Collects and checks the boxes of one image.

    A box that extends beyond its image is clipped, because annotations are rounded; a box without area is dropped, as
    COCO's loaders do; both are counted. A box entirely outside its image, or with swapped corners, is faulty: it is
    skipped and counted.

    Attributes:
        size: width and height of the image in px; ``(1, 1)`` if corners are fractions of it.
        tally: counts the corrections.
    """

    size: tuple[float, float]
    tally: Tally
    _corners: list[Corners] = field(default_factory=list)
    _classes: list[int] = field(default_factory=list)
    _ignored: list[bool] = field(default_factory=list)
    _shapes: list[ObjectShape] = field(default_factory=list)

    def add(
        self, corners: Corners, label: int, where: str, *, ignored: bool = False, shape: ObjectShape | None = None
    ) -> None:
        """Checks and adds a box; counts a box that is invalid as faulty, with a message that begins with ``where``.

        All boxes of an image have a shape, or none.
        """
        try:
            self._add(corners, label, where, ignored, shape)
        except DataError as e:
            self.tally.skip_faulty(e)

    def _add(self, corners: Corners, label: int, where: str, ignored: bool, shape: ObjectShape | None) -> None:
        x1, y1, x2, y2 = corners
        width, height = self.size
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            clipped = self._clipped(corners, where)
            if clipped is None:
                return
            corners = clipped
        self.tally.ignored += ignored
        self.tally.keep(corners, self.size, where)
        self._corners.append(corners)
        self._classes.append(label)
        self._ignored.append(ignored)
        self._shapes += [] if shape is None else [shape]

    def _clipped(self, corners: Corners, where: str) -> Corners | None:
        """Clips a box to the image; None if it has no area."""
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
                f"{where}: expected a box in the image of {width:g} x {height:g}, got one outside it: ({shown})"
            )
        # A smaller difference is rounding, which is not worth a note.
        self.tally.clipped += max(abs(a - b) for a, b in zip(inside, corners, strict=True)) > 1e-4 * max(self.size)
        return inside

    def boxes(self) -> Boxes:
        """The added boxes as arrays."""
        corners = np.array(self._corners, np.float32).reshape(-1, 4)
        classes = np.array(self._classes, np.int64)
        ignored = np.array(self._ignored, bool)
        # In float32 a very thin box can lose its area.
        solid = (corners[:, :2] < corners[:, 2:]).all(1)
        self.tally.flat += int((~solid).sum())
        counted, not_counted = solid & ~ignored, solid & ignored

        def chosen(which: np.ndarray, aside: Boxes | None = None) -> Boxes:
            shapes = tuple(self._shapes[i] for i in np.flatnonzero(which).tolist()) if self._shapes else ()
            return Boxes(corners[which], classes[which], aside, shapes)

        return chosen(counted, chosen(not_counted) if not_counted.any() else None)


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """An image file and its annotation.

    Attributes:
        path: the image file.
        boxes: in px, or in fractions of the image.
        size: width and height in px from the annotation; None if it has none and boxes are fractions.
        where: location of the annotation, for messages.
    """

    path: Path
    boxes: Boxes
    size: tuple[int, int] | None
    where: str


class DetectionSet:
    """Images with boxes; images are read on access, boxes are in memory."""

    def __init__(
        self,
        name: str,
        labels: tuple[str, ...],
        images: Sequence[AnnotatedImage],
        notes: Sequence[str],
        *,
        split: Split = "test",
        task: Task = "detect",
    ) -> None:
        """Creates the data set of a split.

        Args:
            name: name or path of the data set.
            labels: the class names.
            images: the images with their annotations.
            notes: what was skipped or corrected.
            split: the split that was read.
            task: what the boxes' shapes are for.

        Raises:
            DataError: ``images`` is empty.
        """
        if not images:
            raise DataError(f"{name}: expected at least one image, got none")
        self.name = name
        self.split = split
        self.task: Task = task
        self.labels = labels
        self._images = tuple(images)
        counts = np.zeros(len(labels), np.int64)
        for image in images:
            counts += np.bincount(image.boxes.classes, minlength=len(labels))
        empty = empty_classes([labels[i] for i in np.flatnonzero(counts == 0)], "boxes")
        self.notes = [*notes, *(empty if labels else ["no boxes in this split, and no names of classes"])]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Example:
        entry = self._images[index]
        image = read_image(entry.path)
        height, width = image.shape[:2]
        if entry.size is None:
            return Example(entry.path.name, image, _scaled(entry.boxes, width, height))
        if entry.size == (height, width) != (width, height):
            # Programs that ignore EXIF data annotate the image as it is stored, and so do the boxes.
            image = read_image(entry.path, upright=False)
            height, width = image.shape[:2]
        if entry.size != (width, height):
            raise DataError(
                f"{entry.path}: expected {entry.size[0]} x {entry.size[1]} px, as {entry.where} says, got {width} x "
                f"{height}",
                hint=f"width and height in {entry.where} are exchanged" if entry.size == (height, width) else "",
            )
        return Example(entry.path.name, image, _decoded(entry.boxes, entry.where, entry.size))


def empty_classes(names: Sequence[str], what: str) -> list[str]:
    """Returns a note that lists the classes without any ``what``; no note if ``names`` is empty."""
    if not names:
        return []
    some = ", ".join(f"'{name}'" for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return [f"no {what} in this split: {some}"]


def _scaled(boxes: Boxes, width: int, height: int) -> Boxes:
    corners = (boxes.corners * np.array([width, height, width, height], np.float64)).astype(np.float32)
    shapes = tuple(scaled_shape(shape, width, height) for shape in boxes.shapes)
    return Boxes(corners, boxes.classes, _scaled(boxes.ignored, width, height) if boxes.ignored else None, shapes)


def _decoded(boxes: Boxes, where: str, size: tuple[int, int]) -> Boxes:
    """Returns boxes whose shapes are no JSON any more: those of all images would need several times the memory."""
    if not boxes.shapes and boxes.ignored is None:
        return boxes
    ignored = None if boxes.ignored is None else _decoded(boxes.ignored, where, size)
    shapes = tuple(decoded_shape(shape, where, size) for shape in boxes.shapes)
    return Boxes(boxes.corners, boxes.classes, ignored, shapes)
