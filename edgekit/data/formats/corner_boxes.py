"""Tells boxes that are two corners, ``x1 y1 x2 y2``, in formats whose boxes have a width and a height."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.data.detection_set import Corners
from edgekit.errors import DataError

__all__ = ["CornerBoxes"]

_SLACK = 0.02
"""Part of the image's side by which annotators' boxes extend beyond the image, at most."""


class CornerBoxes:
    """The boxes of a data set, and whether they are two corners.

    They are if nearly all make sense as two corners in the image, while many extend beyond the image as boxes with a
    width and a height. A single box may do both.
    """

    def __init__(self, expected: str, hint: str) -> None:
        """Sets the form of a box in the format, and what to do, for the message."""
        self._expected, self._hint = expected, hint
        self._where = ""
        self._boxes = self._as_corners = self._beyond = 0

    def add(self, numbers: Sequence[float], corners: Corners, size: Sequence[float], where: str) -> None:
        """Adds a box.

        Args:
            numbers: the four numbers of the file, the last two of which should be width and height.
            corners: its corners ``(x1, y1, x2, y2)`` then.
            size: width and height of the image, in the same unit.
            where: location of the box, for the message.
        """
        x, y, right, bottom = numbers
        width, height = size
        self._boxes += 1
        self._as_corners += 0 <= x < right <= width and 0 <= y < bottom <= height
        if min(corners[0] / width, corners[1] / height, 1 - corners[2] / width, 1 - corners[3] / height) < -_SLACK:
            self._beyond += 1
            self._where = self._where or where

    def require_sizes(self) -> None:
        """Raises a `DataError` if the boxes are corners."""
        if self._beyond < 2 or self._beyond * 4 < self._boxes or self._as_corners < self._boxes * 0.95:
            return
        raise DataError(
            f"{self._where}: expected {self._expected}, got boxes that read as x1 y1 x2 y2: as two corners they are in "
            f"their images, while with widths and heights {self._beyond:,} of {self._boxes:,} extend beyond them",
            hint=self._hint,
        )
