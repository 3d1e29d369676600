"""Tells outlines from predictions and from key points without ``kpt_shape``, in YOLO lines of more than five fields."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.errors import DataError

__all__ = ["LongLines"]

_MIN_NUMBERS = 10
"""A box and three key points; the four corners of a rotated box have 8 numbers in each line too."""
_HALF = 0.55
"""Half of a box's side, with a tenth more for key points that were marked beside it."""


_TRACKED_BOX = 6
"""Numbers of a box, its score and its track id."""


class LongLines:
    """The lines of a data set that were read as outlines, and whether they read as boxes with key points.

    They do if all have the same number of numbers and all key points are inside of their boxes, while the width and the
    height of half of the boxes or more, taken for a corner of an outline, are outside of them.

    Ultralytics' ``save_txt`` ends the lines of predictions with a score, if ``save_conf`` is set, and then a track id,
    so that a box has the six numbers of a triangle. All lines end with a whole number then, one of 2 or more unless
    only one object was tracked.
    """

    def __init__(self) -> None:
        self._where = ""
        self._count = 0
        self._lines = 0
        self._sizes_outside = 0
        self._values = {2, 3}
        self._all_tracked = self._all_boxes = True
        self._last_id = 0.0

    def add(self, numbers: Sequence[float], where: str) -> None:
        """Adds the numbers of a line after the class."""
        if not self._lines:
            self._where, self._count = where, len(numbers)
        self._lines += 1
        if len(numbers) != self._count or self._count < _MIN_NUMBERS:
            self._values = set()
        self._values = {values for values in self._values if _are_key_points(numbers, values)}
        self._sizes_outside += not _is_inside(numbers[2], numbers[3], numbers)
        self._all_tracked &= _is_tracked(numbers)
        self._all_boxes &= len(numbers) == _TRACKED_BOX and _is_box(numbers)
        self._last_id = max(self._last_id, numbers[-1])

    def require_outlines(self) -> None:
        """Raises a `DataError` if the lines read as boxes with key points, or as predictions of tracked objects."""
        if self._lines and self._all_tracked and (self._last_id >= 2 or self._all_boxes):
            raise DataError(
                f"{self._where}: expected labels, got predictions, whose lines end with a score and a track id",
                hint="remove the last two numbers of each line, or save predictions without save_conf and tracking",
            )
        if not self._lines or not self._values or self._sizes_outside * 2 < self._lines:
            return
        values = max(self._values)
        raise DataError(
            f"{self._where}: expected kpt_shape in a data.yaml, because each line has a box and key points inside of "
            "it, got none",
            hint=f"add kpt_shape: [{(self._count - 4) // values}, {values}] to the data.yaml, or write one",
        )


def _are_key_points(numbers: Sequence[float], values: int) -> bool:
    """Whether all numbers after the box are points inside of it, or 0 0, with a visibility of 0 to 2 if values is 3."""
    if (len(numbers) - 4) % values or not all(flag in (0, 1, 2) for flag in numbers[6::3] if values == 3):
        return False
    points = list(zip(numbers[4::values], numbers[5::values], strict=True))
    return all(x == y == 0 or _is_inside(x, y, numbers) for x, y in points)


def _is_inside(x: float, y: float, box: Sequence[float]) -> bool:
    return abs(x - box[0]) <= _HALF * box[2] and abs(y - box[1]) <= _HALF * box[3]


def _is_tracked(numbers: Sequence[float]) -> bool:
    """Whether numbers end with a score and a whole number, and are fractions of the image up to there."""
    *fractions, last = numbers
    even = len(numbers) % 2 == 0
    return even and last >= 1 and last.is_integer() and all(-0.01 <= number <= 1.01 for number in fractions)


def _is_box(numbers: Sequence[float]) -> bool:
    """Whether numbers begin with a box in the image, up to rounding."""
    return all(side > 0 and abs(2 * at - 1) + side <= 1.02 for at, side in zip(numbers[:2], numbers[2:4], strict=True))
