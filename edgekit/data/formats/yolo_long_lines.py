"""Tells key points from outlines in YOLO lines of more than five numbers, where no ``kpt_shape`` says what they are."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.errors import DataError

__all__ = ["LongLines"]

_MIN_NUMBERS = 10
"""A box and three key points; the four corners of a rotated box have 8 numbers in each line too."""
_HALF = 0.55
"""Half of a box's side, with a tenth more for key points that were marked beside it."""


class LongLines:
    """The lines of a data set that were read as outlines, and whether they read as boxes with key points.

    They do if all have the same number of numbers and all key points are inside of their boxes, while the width and the
    height of half of the boxes or more, taken for a corner of an outline, are outside of them.
    """

    def __init__(self) -> None:
        self._where = ""
        self._count = 0
        self._lines = 0
        self._sizes_outside = 0
        self._values = {2, 3}

    def add(self, numbers: Sequence[float], where: str) -> None:
        """Adds the numbers of a line after the class."""
        if not self._lines:
            self._where, self._count = where, len(numbers)
        self._lines += 1
        if len(numbers) != self._count or self._count < _MIN_NUMBERS:
            self._values = set()
        self._values = {values for values in self._values if _are_key_points(numbers, values)}
        self._sizes_outside += not _is_inside(numbers[2], numbers[3], numbers)

    def require_outlines(self) -> None:
        """Raises a `DataError` if the lines read as boxes with key points."""
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
