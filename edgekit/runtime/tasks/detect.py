"""Task ``detect``: finds objects in an image, and converts them to COCO's results format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from edgekit.data.coco import COCO_CATEGORY_IDS, is_coco
from edgekit.data.frames import Format
from edgekit.data.images import ImageSource, Placement
from edgekit.engine.bundle.manifest import Manifest
from edgekit.errors import RunError
from edgekit.kernels.decode.candidates import best_candidates
from edgekit.kernels.decode.yolo import decode
from edgekit.kernels.suppression.suppress import check_thresholds, nms
from edgekit.runtime.draw import draw
from edgekit.runtime.stream import Pending
from edgekit.runtime.tasks.choose import require_task
from edgekit.runtime.tasks.task import ImageTask, OpenSession, Shown, Started

__all__ = ["TASK", "Detection", "Detections", "coco_results", "detections_from_outputs"]


class Detection(NamedTuple):
    """A detected object: its label, its score and its corners ``(x1, y1, x2, y2)`` in px of the image."""

    label: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Detections:
    """The detected objects in one image, best first.

    Attributes:
        boxes: corners ``(x1, y1, x2, y2)`` in px of the image; float32, shape ``(N, 4)``.
        scores: float32, shape ``(N,)``.
        classes: int64, shape ``(N,)``.
        names: names of all classes of the model; may be empty.
        tracks: number of the object that each box belongs to, the same in all frames of a video, from 1; int64, shape
            ``(N,)``. None if objects are not tracked.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    names: tuple[str, ...] = ()
    tracks: np.ndarray | None = None

    @property
    def labels(self) -> list[str]:
        """The class name of each object, or the class index if the model has no class names."""
        return [self.names[c] if c < len(self.names) else str(c) for c in self.classes.tolist()]

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        rows = zip(self.labels, self.scores.tolist(), self.boxes.tolist(), strict=True)
        return (Detection(label, score, tuple(box)) for label, score, box in rows)


MAX_CANDIDATES = 30_000
"""Only so many of the best candidates are compared: their number is that of Ultralytics (``max_nms`` of
``non_max_suppression``). A threshold of 0 lets a million pass, whose suppression takes up to the square of that."""


@dataclass(frozen=True)
class Thresholds:
    """What is detected.

    Attributes:
        score_threshold: only boxes with a greater score; 0 to 1.
        iou_threshold: maximum overlap of a detection with a better one of its class; 0 to 1.
        max_detections: maximum number of detections of an image.
    """

    score_threshold: float
    iou_threshold: float
    max_detections: int


def thresholds_of(
    manifest: Manifest,
    *,
    score_threshold: float | None = None,
    iou_threshold: float | None = None,
    max_detections: int | None = None,
) -> Thresholds:
    """Returns the given thresholds, and those of the manifest where none is given.

    Raises:
        RunError: the engine is not a detector.
        UsageError: a threshold is out of range.
    """
    how = manifest.postprocess
    if how is None:
        raise RunError(f"'{manifest.name}': expected a detector, got an engine for task '{manifest.task}'")
    found = Thresholds(
        how.score_threshold if score_threshold is None else score_threshold,
        how.iou_threshold if iou_threshold is None else iou_threshold,
        how.max_detections if max_detections is None else max_detections,
    )
    check_thresholds(found.score_threshold, found.iou_threshold, found.max_detections)
    return found


def detections_from_outputs(
    outputs: Mapping[str, np.ndarray],
    manifest: Manifest,
    placement: Placement,
    *,
    score_threshold: float | None = None,
    iou_threshold: float | None = None,
    max_detections: int | None = None,
) -> Detections:
    """Decodes outputs, applies non-maximum suppression, and maps boxes to the image; drops boxes outside of it.

    Args:
        outputs: the engine's outputs by name, for a batch of one image.
        manifest: has the decoder and the default thresholds.
        placement: placement of the image in the input.
        score_threshold: only detections with a greater score are returned; 0 to 1.
        iou_threshold: a box that overlaps a better one of its class by more is dropped; 0 to 1.
        max_detections: maximum number of detections.

    Raises:
        RunError: the engine is not a detector, or an output does not fit the manifest.
        UsageError: a threshold is out of range.
    """
    thresholds = thresholds_of(
        manifest, score_threshold=score_threshold, iou_threshold=iou_threshold, max_detections=max_detections
    )
    assert manifest.postprocess is not None  # checked by `thresholds_of`
    # Box sizes are exponentials, which easily overflow half precision.
    wide = {name: array.astype(np.float32) if array.dtype == np.float16 else array for name, array in outputs.items()}
    found = decode(wide, manifest.postprocess, score_threshold=thresholds.score_threshold)
    boxes, scores, classes, _ = best_candidates(found, MAX_CANDIDATES)
    kept = nms(boxes, scores, classes, **asdict(thresholds))
    corners = placement.to_image(boxes[kept])
    visible = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    kept = kept[visible]
    return Detections(corners[visible], scores[kept], classes[kept], manifest.labels)


def detections_from_rows(rows: np.ndarray, manifest: Manifest) -> Detections:
    """Converts the rows of `edgekit.kernels.decode.device.DETECTION`, in px of the image, to detections."""
    boxes, scores, classes = (np.ascontiguousarray(rows[name]) for name in ("box", "score", "class"))
    return Detections(boxes, scores, classes.astype(np.int64), manifest.labels)


def coco_results(detections: Detections, image_id: int) -> list[dict[str, Any]]:
    """Converts detections to entries of a COCO results file (https://cocodataset.org/#format-results).

    Category ids are COCO's own, 1 to 90 with gaps, if the model has COCO's 80 classes in order, with COCO's names or
    Darknet's; otherwise they are the class indices plus 1.

    Args:
        detections: the detections of one image.
        image_id: the image's id in the annotation file.

    Returns:
        One dictionary for each detection: ``image_id``, ``category_id``, ``bbox`` as ``[x, y, width, height]`` in px of
        the image, ``score``; with plain Python numbers, for `json`.
    """
    ids = COCO_CATEGORY_IDS if is_coco(detections.names) else range(1, int(detections.classes.max(initial=0)) + 2)
    corners = detections.boxes.astype(np.float64)
    bboxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).round(3)
    rows = zip(detections.classes.tolist(), bboxes.tolist(), detections.scores.tolist(), strict=True)
    return [
        {"image_id": image_id, "category_id": ids[kind], "bbox": bbox, "score": round(score, 6)}
        for kind, bbox, score in rows
    ]


class Detect(ImageTask[Detections]):
    """See `ImageTask`."""

    name = "detect"
    engine = "a detector"
    method = "use detect(), which takes an image"
    options = ("score_threshold", "iou_threshold")
    draws = "boxes"

    def predict(
        self, session: OpenSession, image: ImageSource, *, format: Format = "rgb", **options: Any
    ) -> Detections:
        """See `Session.detect`."""
        require_task(self, session.manifest)
        thresholds = thresholds_of(session.manifest, **options)
        started = session.detect_on_device(image, format, **asdict(thresholds))
        if started is None:
            return super().predict(session, image, format=format, **options)
        return detections_from_rows(started.result(), session.manifest)

    def start(
        self, session: OpenSession, image: ImageSource, *, format: Format = "rgb", **options: Any
    ) -> Pending[Detections]:
        """See `Session.stream`."""
        require_task(self, session.manifest)
        thresholds = thresholds_of(session.manifest, **options)
        started = session.detect_on_device(image, format, **asdict(thresholds))
        if started is None:
            return super().start(session, image, format=format, **options)
        return Started(started, lambda rows: detections_from_rows(rows, session.manifest))

    def result(
        self, outputs: Mapping[str, np.ndarray], manifest: Manifest, placement: Placement, **options: Any
    ) -> Detections:
        """See `detections_from_outputs`."""
        return detections_from_outputs(outputs, manifest, placement, **options)

    def shown(self, result: Detections) -> Shown:
        """See `ImageTask.shown`."""
        count = f"{len(result)} object{'' if len(result) == 1 else 's'}"
        rows = [(each.label, f"{each.score:.3f}", *(f"{corner:.0f}" for corner in each.box)) for each in result]
        return Shown(count, ("label", "score", "left", "top", "right", "bottom"), rows)

    def entries(self, result: Detections, image: Path, image_id: int) -> list[dict[str, Any]]:
        """Returns a COCO results entry for each object, with file name and label, which COCO's tools ignore."""
        entries = [
            {**entry, "file_name": image.name, "label": label}
            for entry, label in zip(coco_results(result, image_id), result.labels, strict=True)
        ]
        if result.tracks is not None:
            entries = [{**entry, "track": track} for entry, track in zip(entries, result.tracks.tolist(), strict=True)]
        return entries

    def drawn(self, result: Detections, image: ImageSource) -> Image.Image:
        """See `ImageTask.drawn`."""
        return draw(image, result)


TASK = Detect()
