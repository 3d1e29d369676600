"""Corners of COCO's boxes, which are ``[x, y, width, height]``, or what Detectron2's ``bbox_mode`` says."""

from __future__ import annotations

import numpy as np

from edgekit.data.detection_set import Corners
from edgekit.data.formats.coco_file import Annotation
from edgekit.errors import DataError

__all__ = ["corners_of"]

# detectron2/structures/boxes.py, class BoxMode; its other modes are fractions and rotated boxes.
_CORNERS, _SIZES = ("0", "XYXY_ABS"), ("1", "XYWH_ABS")


def corners_of(annotation: Annotation, where: str) -> Corners:
    """Returns the corners ``(x1, y1, x2, y2)`` of an annotation's box, in px.

    Raises:
        DataError: the box is not four numbers, or ``bbox_mode`` is neither XYXY_ABS nor XYWH_ABS.
    """
    bbox = annotation.bbox or []
    if len(bbox) != 4:
        raise DataError(f"{where}.bbox: expected four numbers, got {len(bbox)}")
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
