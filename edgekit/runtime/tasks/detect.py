"""Task ``detect``: a picture in, boxes with classes and scores out, and the form in which COCO's tools take them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from edgekit.data.coco import COCO_CATEGORY_IDS, is_coco
from edgekit.data.images import ImageSource, Placement
from edgekit.engine.bundle.manifest import Manifest
from edgekit.errors import RunError
from edgekit.kernels.decode.yolo import decode
from edgekit.kernels.nms.suppress import nms
from edgekit.runtime.draw import draw
from edgekit.runtime.tasks.choose import require_task
from edgekit.runtime.tasks.task import OpenSession, PictureTask, Shown

__all__ = ["TASK", "Detection", "Detections", "coco_results", "detections_from_outputs"]


class Detection(NamedTuple):
    """One found object: its label, its score and its corners ``(x1, y1, x2, y2)`` in px of the picture."""

    label: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects found in one picture, best first.

    Attributes:
        boxes: corners ``(x1, y1, x2, y2)`` in px of the picture; float32, shape ``(N, 4)``.
        scores: float32, shape ``(N,)``.
        classes: int64, shape ``(N,)``.
        names: names of all classes that the model knows; may be empty.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    names: tuple[str, ...] = ()

    @property
    def labels(self) -> list[str]:
        """The name of each object's class, or its number where the model's classes have no names."""
        return [self.names[c] if c < len(self.names) else str(c) for c in self.classes.tolist()]

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        rows = zip(self.labels, self.scores.tolist(), self.boxes.tolist(), strict=True)
        return (Detection(label, score, tuple(box)) for label, score, box in rows)


def detections_from_outputs(
    outputs: Mapping[str, np.ndarray],
    manifest: Manifest,
    placement: Placement,
    *,
    score_threshold: float | None = None,
    iou_threshold: float | None = None,
    max_detections: int | None = None,
) -> Detections:
    """Decoding, suppression, and the way back to the picture; boxes that lie outside it altogether are left out.

    Args:
        outputs: the engine's outputs by name, for a batch of one picture.
        manifest: says how outputs are decoded, and the thresholds that hold where none is given.
        placement: where the picture lay in the input.
        score_threshold: a detection's score is greater; 0 to 1.
        iou_threshold: a box that overlaps a better one of its class by more is dropped; 0 to 1.
        max_detections: at most so many.

    Raises:
        RunError: the engine is no detector, or an output is not as the manifest says.
        UsageError: a threshold is out of range.
    """
    how = manifest.postprocess
    if how is None:
        raise RunError(f"'{manifest.name}': expected a detector, got an engine for task '{manifest.task}'")
    score_threshold = how.score_threshold if score_threshold is None else score_threshold
    iou_threshold = how.iou_threshold if iou_threshold is None else iou_threshold
    max_detections = how.max_detections if max_detections is None else max_detections

    # Sizes of boxes are exponentials, which soon leave the range of half precision.
    wide = {name: array.astype(np.float32) if array.dtype == np.float16 else array for name, array in outputs.items()}
    boxes, scores, classes = decode(wide, how, score_threshold=score_threshold)
    kept = nms(
        boxes,
        scores,
        classes,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
    )
    corners = placement.to_image(boxes[kept])
    visible = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    kept = kept[visible]
    return Detections(corners[visible], scores[kept], classes[kept], manifest.labels)


def coco_results(detections: Detections, image_id: int) -> list[dict[str, Any]]:
    """Detections as entries of a COCO results file (https://cocodataset.org/#format-results).

    Category ids are COCO's own, 1 to 90 with gaps, where the model's classes are COCO's 80 in their order, by
    COCO's names or Darknet's; for all others they are the class numbers counted from 1.

    Args:
        detections: what was found.
        image_id: the picture's id in the annotation file.

    Returns:
        One dictionary a detection: ``image_id``, ``category_id``, ``bbox`` as ``[x, y, width, height]`` in px of
        the picture, ``score``; made of plain numbers that `json` takes.
    """
    ids = COCO_CATEGORY_IDS if is_coco(detections.names) else range(1, int(detections.classes.max(initial=0)) + 2)
    corners = detections.boxes.astype(np.float64)
    bboxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).round(3)
    rows = zip(detections.classes.tolist(), bboxes.tolist(), detections.scores.tolist(), strict=True)
    return [
        {"image_id": image_id, "category_id": ids[kind], "bbox": bbox, "score": round(score, 6)}
        for kind, bbox, score in rows
    ]


class Detect(PictureTask[Detections]):
    """See `PictureTask`."""

    name = "detect"
    engine = "a detector"
    method = "detect() takes a picture"
    options = ("score_threshold", "iou_threshold")
    draws = "boxes"

    def answer(
        self,
        session: OpenSession,
        image: ImageSource,
        *,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> Detections:
        """See `Session.detect`."""
        require_task(self, session.manifest)
        feeds, placement = session.preprocess(image)
        return detections_from_outputs(
            session.run(feeds),
            session.manifest,
            placement,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
        )

    def shown(self, result: Detections) -> Shown:
        """See `PictureTask.shown`."""
        count = f"{len(result)} object{'' if len(result) == 1 else 's'}"
        rows = [(each.label, f"{each.score:.3f}", *(f"{corner:.0f}" for corner in each.box)) for each in result]
        return Shown(count, ("label", "score", "left", "top", "right", "bottom"), rows)

    def entries(self, result: Detections, picture: Path, image_id: int) -> list[dict[str, Any]]:
        """COCO's entries, one an object, with two fields for people, which COCO's tools ignore."""
        return [
            {**entry, "file_name": picture.name, "label": label}
            for entry, label in zip(coco_results(result, image_id), result.labels, strict=True)
        ]

    def drawn(self, result: Detections, image: ImageSource) -> Image.Image:
        """See `PictureTask.drawn`."""
        return draw(image, result)


TASK = Detect()
