"""Corners of COCO's boxes: ``[x, y, width, height]``, or what Detectron2's ``bbox_mode`` says, or those of a mask."""

from __future__ import annotations

import numpy as np

from edgekit.data.detection_set import Corners
from edgekit.data.formats.coco_file import Annotation, ShapedAnnotation
from edgekit.data.shapes import ObjectShape, corners_of_mask, decoded_shape
from edgekit.errors import DataError

__all__ = ["corners_of"]

# detectron2/structures/boxes.py, class BoxMode; its other modes are fractions and rotated boxes.
_CORNERS, _SIZES = ("0", "XYXY_ABS"), ("1", "XYWH_ABS")


def corners_of(annotation: Annotation, where: str, size: tuple[float, float]) -> Corners:
    """Returns the corners ``(x1, y1, x2, y2)`` of an annotation's box, in px; without a box, those of its mask.

    Args:
        annotation: has a box, or is a `ShapedAnnotation` with a mask.
        where: location of the annotation, with which a message begins.
        size: width and height of the image in px.

    Raises:
        DataError: the box is not four numbers, ``bbox_mode`` is neither XYXY_ABS nor XYWH_ABS, or the mask is invalid.
    """
    if not annotation.bbox and isinstance(annotation, ShapedAnnotation):
        whole = (int(size[0]), int(size[1]))
        return corners_of_mask(decoded_shape(ObjectShape(bytes(annotation.segmentation)), where, whole).mask)
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
