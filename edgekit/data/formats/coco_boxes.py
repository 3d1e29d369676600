"""Corners of COCO's boxes, which are ``[x, y, width, height]``, or what Detectron2's ``bbox_mode`` says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.data.detection_set import Corners
from edgekit.data.formats.coco_file import Annotation
from edgekit.errors import DataError

__all__ = ["CornerBoxes", "corners_of"]

# detectron2/structures/boxes.py, class BoxMode; its other modes are fractions and rotated boxes.
_CORNERS, _SIZES = ("0", "XYXY_ABS"), ("1", "XYWH_ABS")

_SLACK = 0.02
"""Part of the image's side by which annotators' boxes may extend beyond the image, at most."""


def corners_of(annotation: Annotation, where: str) -> Corners:
    """Returns the corners ``(x1, y1, x2, y2)`` of an annotation's box, in px.

    Raises:
        DataError: the box is not four numbers, or ``bbox_mode`` is neither XYXY_ABS nor XYWH_ABS.
    """
    bbox = annotation.bbox or []
    if len(bbox) != 4:
        raise DataError(f"{where}.bbox: expected `array` of length 4, got {len(bbox)}")
    try:
        x, y, third, fourth = np.asarray(bbox, np.float64).tolist()
    except (TypeError, ValueError) as e:
        raise DataError(f"{where}.bbox: expected four numbers, got {str(bbox)[:80]}") from e
    mode = str(annotation.bbox_mode).rpartition(".")[2]
    if mode in _CORNERS:
        return x, y, third, fourth
    if annotation.bbox_mode is not None and mode not in _SIZES:
        raise DataError(
            f"{where}.bbox_mode: expected 1 (XYWH_ABS) or 0 (XYXY_ABS), got {str(annotation.bbox_mode)[:40]}",
            hint="write boxes as [x, y, width, height] in px, and no bbox_mode",
        )
    return x, y, x + third, y + fourth


class CornerBoxes:
    """Tells whether the boxes of a file are ``[x1, y1, x2, y2]``, which COCO's boxes are not.

    They are if nearly all make sense as two corners in the image, while many extend beyond the image as a corner and a
    size. A single box may do both.
    """

    def __init__(self) -> None:
        self._where = ""
        self._boxes = self._as_corners = self._beyond = 0

    def add(self, corners: Corners, size: Sequence[float], where: str) -> None:
        """Adds a box that was read as ``[x, y, width, height]``.

        Args:
            corners: ``(x, y, x + width, y + height)`` in px.
            size: width and height of the image in px.
            where: location of the box, for the message.
        """
        x, y, right, bottom = corners
        width, height = size
        self._boxes += 1
        self._as_corners += x < right - x <= width and y < bottom - y <= height
        if right > width * (1 + _SLACK) or bottom > height * (1 + _SLACK):
            self._beyond += 1
            self._where = self._where or where

    def require_sizes(self) -> None:
        """Raises a `DataError` if the boxes are corners."""
        if self._beyond < 2 or self._beyond * 4 < self._boxes or self._as_corners < self._boxes * 0.95:
            return
        raise DataError(
            f"{self._where}: expected [x, y, width, height], got boxes that read as [x1, y1, x2, y2]: so all are in "
            f"their images, while as sizes {self._beyond:,} of {self._boxes:,} extend beyond them",
            hint='write [x1, y1, x2 - x1, y2 - y1], or add "bbox_mode": 0 to each annotation, as Detectron2 does',
        )
