"""The verdict about a model's outputs, with its evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekit.recipe.heads import Head

__all__ = ["FAMILY_TITLES", "Verdict"]

FAMILY_TITLES: Mapping[str, str] = {
    "yolov1": "YOLOv1",
    "yolov2": "YOLOv2",
    "yolov3": "YOLOv3",
    "yolov5": "YOLOv5 or YOLOv7",
    "yolov8": "YOLOv8 or a later YOLO",
    "yolox": "YOLOX",
    "end2end": "selected detections of YOLOv10, YOLO26 or RT-DETR",
    "detr": "DETR",
    "boxes-scores-labels": "detections as boxes, scores and labels",
    "efficient-nms": "EfficientNMS",
    "batched-rows": "detections in rows",
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A head that fits a model's outputs.

    Attributes:
        head: the family with its parameters.
        evidence: what speaks for it, in words.
        preprocess: the preprocessing that the family is known for, as fields of `Preprocess`.
        preprocess_of: whose preprocessing that is, in words.
        sure: nothing else fits.
    """

    head: Head
    evidence: tuple[str, ...]
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    preprocess_of: str = ""
    sure: bool = True

    @property
    def family(self) -> str:
        """The name of the family."""
        return str(type(self.head).__struct_config__.tag)
