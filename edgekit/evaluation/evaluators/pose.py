"""Evaluator of the task ``pose``: mean average precision of key points (OKS) and of boxes, as COCO computes it."""

from __future__ import annotations

from typing import ClassVar

from edgekit.data.examples import Boxes
from edgekit.errors import DataError
from edgekit.evaluation.evaluators.base import Figure, Measure
from edgekit.evaluation.evaluators.detect import BOX_FIGURES, DetectEvaluator, Fields
from edgekit.evaluation.metrics import AveragePrecision, Overlap
from edgekit.runtime.detections import Poses

__all__ = ["MEASURE"]


class PoseEvaluator(DetectEvaluator):
    """See `DetectEvaluator`."""

    overlaps: ClassVar[dict[str, Overlap]] = {"keypoint_": "keypoints", "": "boxes"}

    @property
    def _keypoints(self) -> int:
        """The number of key points that the engine finds."""
        how = self._session.manifest.postprocess
        return int(getattr(how.head, "keypoints", (0,))[0]) if how is not None else 0

    def _precision(self, overlap: Overlap) -> AveragePrecision:
        return AveragePrecision(self._count, overlap, self._keypoints)

    def _expected_fields(self, boxes: Boxes, where: str) -> Fields:
        fields = []
        for shape in boxes.shapes:
            if len(shape.keypoints) != 3 * self._keypoints:
                raise DataError(
                    f"{where}: expected {self._keypoints} key points, as the engine finds, got "
                    f"{len(shape.keypoints) // 3}"
                )
            visible = sum(v > 0 for v in shape.keypoints[2::3])
            fields.append({"keypoints": list(shape.keypoints), "num_keypoints": visible, "area": shape.area})
        return fields

    def _found_fields(self, found: Poses) -> Fields:
        return [{"keypoints": points.reshape(-1).tolist()} for points in found.keypoints]


MEASURE = Measure(
    task="pose",
    make=PoseEvaluator,
    figures={
        "keypoint_map50": Figure("mAP 0.50 of key points"),
        "keypoint_map50_95": Figure("mAP 0.50:0.95 of key points"),
        **BOX_FIGURES,
    },
    class_figure="mAP 0.50:0.95 of key points",
    has_scores=True,
)
