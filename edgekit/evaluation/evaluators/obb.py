"""Evaluator of the task ``obb``: mean average precision of rotated boxes, by their exact intersection over union."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from edgekit.data.examples import Boxes
from edgekit.errors import DataError
from edgekit.evaluation.evaluators.base import Measure
from edgekit.evaluation.evaluators.detect import BOX_FIGURES, DetectEvaluator, Fields
from edgekit.evaluation.metrics import FoundBoxes, Overlap, overlaps_of_rotated
from edgekit.evaluation.rotated import rotated_box_of_outline
from edgekit.runtime.detections import RotatedDetections

__all__ = ["MEASURE"]


class ObbEvaluator(DetectEvaluator):
    """See `DetectEvaluator`; an object's box is the least rectangle around its outline."""

    overlaps: ClassVar[dict[str, Overlap]] = {"": "rotated"}

    def _expected_fields(self, boxes: Boxes, where: str) -> Fields:
        fields = []
        for shape in boxes.shapes:
            if not isinstance(shape.mask, list):
                raise DataError(f"{where}: expected the corners of rotated boxes as polygons, got run lengths")
            points = np.array([number for polygon in shape.mask for number in polygon]).reshape(-1, 2)
            fields.append({"rotated": rotated_box_of_outline(points)})
        return fields

    def _found_fields(self, found: RotatedDetections) -> Fields:
        return [{"rotated": rotated} for rotated in found.rotated.astype(np.float64)]

    def _compared(self, boxes: FoundBoxes) -> FoundBoxes:
        rotated = np.array([each["rotated"] for each in boxes.fields]).reshape(-1, 5)
        return boxes._replace(corners=rotated)

    def _overlaps(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return overlaps_of_rotated(one, other)


MEASURE = Measure(
    task="obb",
    make=ObbEvaluator,
    figures=BOX_FIGURES,
    class_figure="mAP 0.50:0.95",
    has_scores=True,
)
