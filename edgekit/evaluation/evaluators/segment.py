"""Evaluator of the task ``segment``: mean average precision of masks and of boxes, as COCO computes it."""

from __future__ import annotations

from typing import ClassVar

from edgekit.data.examples import Boxes
from edgekit.evaluation.evaluators.base import Figure, Measure
from edgekit.evaluation.evaluators.detect import BOX_FIGURES, DetectEvaluator, Fields
from edgekit.evaluation.metrics import Overlap
from edgekit.runtime.detections import Segments

__all__ = ["MEASURE"]


class SegmentEvaluator(DetectEvaluator):
    """See `DetectEvaluator`."""

    overlaps: ClassVar[dict[str, Overlap]] = {"mask_": "masks", "": "boxes"}

    def _expected_fields(self, boxes: Boxes, where: str) -> Fields:
        return [{"segmentation": shape.mask} for shape in boxes.shapes]

    def _found_fields(self, found: Segments) -> Fields:
        return [{"segmentation": mask} for mask in found.rle()]


MEASURE = Measure(
    task="segment",
    make=SegmentEvaluator,
    figures={
        "mask_map50": Figure("mAP 0.50 of masks"),
        "mask_map50_95": Figure("mAP 0.50:0.95 of masks"),
        **BOX_FIGURES,
    },
    class_figure="mAP 0.50:0.95 of masks",
    has_scores=True,
)
