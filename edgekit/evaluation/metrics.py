"""Accuracy metrics from predictions and targets, in numpy; average precision uses pycocotools."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from edgekit.errors import BackendUnavailable, UsageError
from edgekit.extras import install_command
from edgekit.kernels.suppression.rotated import rotated_iou
from edgekit.measure.agreement import SAME_OBJECT, overlaps_of_boxes

__all__ = [
    "AveragePrecision",
    "AveragePrecisions",
    "FoundBoxes",
    "MAX_DETECTIONS",
    "NO_OBJECT",
    "matched_classes_of_boxes",
    "overlaps_of_rotated",
    "ranks",
    "regression_figures",
    "require_pycocotools",
    "scores_of_matched",
    "sequence_figures",
    "share",
]

NO_OBJECT = -1
"""Stands for a class where there is no object, or no detection of it."""
MAX_DETECTIONS = 100
"""COCO evaluates at most the 100 highest-scoring detections per image; poses at most `MAX_POSES`."""
MAX_POSES = 20

Overlap = Literal["boxes", "rotated", "masks", "keypoints"]
"""What decides whether a detection is an object: intersection over union of boxes, of rotated boxes or of masks, or
COCO's similarity of key points (OKS)."""
_IOU_TYPES = {"boxes": "bbox", "rotated": "bbox", "masks": "segm", "keypoints": "keypoints"}


def share(correct: np.ndarray) -> float:
    """Fraction of true values; NaN if ``correct`` is empty."""
    return float(np.mean(correct)) if correct.size else math.nan


def ranks(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Counts the classes that rank before the target: 0 is a correct prediction, less than 5 is top-5.

    Of equal scores the class with the lower index ranks first, as with ``argmax``. If any score of an example is NaN,
    the target ranks last.

    Args:
        scores: logits or probabilities; floats, shape ``(N, C)``.
        targets: target classes, 0 to C - 1; integers, shape ``(N,)``.

    Returns:
        Rank of each target; int64, shape ``(N,)``.

    Raises:
        UsageError: the shapes do not match, or a target is out of range.
    """
    if scores.ndim != 2 or targets.shape != scores.shape[:1]:
        raise UsageError(f"expected scores (N, C) and targets (N,), got {scores.shape} and {targets.shape}")
    classes = scores.shape[1]
    outside = targets[(targets < 0) | (targets >= classes)]
    if outside.size:
        raise UsageError(f"targets: expected 0 to {classes - 1}, got {outside[0]}")
    own = scores[np.arange(len(scores)), targets][:, None]
    before = np.arange(classes)[None] < targets[:, None]
    found = ((scores > own) | ((scores == own) & before)).sum(axis=1)
    ranked: np.ndarray = np.where(np.isnan(scores).any(axis=1), classes - 1, found)
    return ranked


def regression_figures(predicted: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Computes MSE, RMSE and R².

    ``mse = mean((y - p)^2)`` over all examples and outputs; ``r2 = 1 - sum((y - p)^2) / sum((y - mean(y))^2)`` for each
    output, then averaged. A constant output has an ``r2`` of 1 if it is predicted exactly and 0 otherwise, as in
    scikit-learn.

    Args:
        predicted: floats, shape ``(N,)`` or ``(N, K)``.
        expected: targets of the same shape.

    Returns:
        ``mse``, ``rmse`` and ``r2``; ``r2`` is NaN for fewer than two examples.

    Raises:
        UsageError: the shapes differ.
    """
    if predicted.shape != expected.shape or predicted.ndim not in (1, 2):
        raise UsageError(
            f"expected predictions and targets of one shape, (N,) or (N, K), got {predicted.shape} and {expected.shape}"
        )
    p, y = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (predicted, expected))
    if not p.size:
        return {"mse": math.nan, "rmse": math.nan, "r2": math.nan}
    squares = np.square(y - p)
    mse = float(squares.mean())
    unexplained, variation = squares.sum(axis=0), np.square(y - y.mean(axis=0)).sum(axis=0)
    varies = variation > 0
    r2 = np.where(unexplained == 0, 1.0, 0.0)
    r2[varies] = 1 - unexplained[varies] / variation[varies]
    return {"mse": mse, "rmse": math.sqrt(mse), "r2": float(r2.mean()) if len(p) > 1 else math.nan}


def sequence_figures(predicted: Sequence[Sequence[object]], expected: Sequence[Sequence[object]]) -> dict[str, float]:
    """Computes token accuracy and sequence accuracy.

    The end of a sequence counts as a token: a prediction that is too long loses a point too, and an empty sequence can
    be correct.

    Args:
        predicted: generated tokens without end tokens, of any comparable type.
        expected: target tokens without end tokens.

    Returns:
        ``token_accuracy`` over all tokens of ``expected`` and their ends, and ``sequence_accuracy``.

    Raises:
        UsageError: the numbers of predictions and targets differ.
    """
    if len(predicted) != len(expected):
        raise UsageError(f"expected as many predictions as targets, {len(expected)}, got {len(predicted)}")
    end = object()
    tokens = correct_tokens = correct_sequences = 0
    for got, wanted in zip(predicted, expected, strict=True):
        got, wanted = [*got, end], [*wanted, end]
        tokens += len(wanted)
        correct_tokens += sum(a == b for a, b in zip(got, wanted, strict=False))
        correct_sequences += got == wanted
    return {
        "token_accuracy": correct_tokens / tokens if tokens else math.nan,
        "sequence_accuracy": correct_sequences / len(expected) if expected else math.nan,
    }


class FoundBoxes(NamedTuple):
    """Boxes in one image.

    Attributes:
        corners: ``(x1, y1, x2, y2)`` in px of the image; floats, shape ``(N, 4)``.
        classes: integers, shape ``(N,)``.
        scores: floats, shape ``(N,)``; None for targets.
        fields: of each box, what its entry in COCO's files has beside the box: ``segmentation``, ``keypoints``,
            ``num_keypoints`` and ``area``; or ``rotated``: center x, center y, width, height, angle in radians.
    """

    corners: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None = None
    fields: Sequence[Mapping[str, Any]] = ()


def matched_classes_of_boxes(
    expected: FoundBoxes,
    found: FoundBoxes,
    ignored: np.ndarray,
    overlaps_of: Callable[[np.ndarray, np.ndarray], np.ndarray] = overlaps_of_boxes,
) -> list[tuple[int, int]]:
    """Pairs boxes with the objects of one image, by an IoU of 0.5 or more, whatever their classes.

    Args:
        expected: the objects.
        found: detections, best first: each takes the object left with the largest overlap.
        ignored: corners of regions in which a detection without an object does not count, shape ``(N, 4)``.
        overlaps_of: computes the IoU of two arrays of boxes.

    Returns:
        Expected and predicted class of each pair; `NO_OBJECT` for a false detection and for a missed object.
    """
    overlaps, hidden = (overlaps_of(found.corners, each) for each in (expected.corners, ignored))
    free = np.ones(len(expected.classes), bool)
    pairs = []
    for row, kind in enumerate(found.classes.tolist()):
        own = np.where(free, overlaps[row], 0.0)
        best = int(own.argmax()) if own.size else 0
        if own.size and own[best] >= SAME_OBJECT:
            pairs.append((int(expected.classes[best]), kind))
            free[best] = False
        elif not (hidden[row] >= SAME_OBJECT).any():
            pairs.append((NO_OBJECT, kind))
    return pairs + [(kind, NO_OBJECT) for kind in expected.classes[free].tolist()]


def scores_of_matched(
    expected: FoundBoxes,
    found: FoundBoxes,
    overlaps_of: Callable[[np.ndarray, np.ndarray], np.ndarray] = overlaps_of_boxes,
) -> list[float]:
    """Returns the score of each object's detection: the best one of its class with an IoU of 0.5 or more.

    Args:
        expected: the objects of one image.
        found: detections, best first: each takes the object left with the largest overlap.
        overlaps_of: computes the IoU of two arrays of boxes.
    """
    assert found.scores is not None
    overlaps = overlaps_of(found.corners, expected.corners)
    overlaps[np.asarray(found.classes)[:, None] != np.asarray(expected.classes)[None]] = 0.0
    scores = []
    for row, score in zip(overlaps, found.scores.tolist(), strict=True):
        best = int(row.argmax()) if row.size else 0
        if row.size and row[best] >= SAME_OBJECT:
            scores.append(score)
            overlaps[:, best] = 0.0
    return scores


def overlaps_of_rotated(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the intersection over union of rotated boxes, shapes ``(N, 5)`` and ``(M, 5)``; shape ``(N, M)``."""
    i, j = np.indices((len(one), len(other))).reshape(2, -1)
    pairs = (np.asarray(side, np.float64).reshape(-1, 5) for side in (one, other))
    first, second = pairs
    found: np.ndarray = rotated_iou(first[i], second[j]).reshape(len(one), len(other))
    return found


@dataclass(frozen=True)
class AveragePrecisions:
    """Mean average precision, overall and per class.

    Attributes:
        map50: mAP at an IoU threshold of 0.50.
        map50_95: mean over the ten IoU thresholds 0.50, 0.55 ... 0.95, COCO's primary metric.
        per_class: ``map50_95`` of each class, by index; NaN for a class without boxes.
        curve50: precision at the recalls 0, 0.01 ... 1 at an IoU threshold of 0.50, the mean over all classes.
        curve75: the same at 0.75.
    """

    map50: float
    map50_95: float
    per_class: tuple[float, ...]
    curve50: tuple[float, ...] = ()
    curve75: tuple[float, ...] = ()


def require_pycocotools() -> Any:
    """Imports ``pycocotools.cocoeval``.

    Raises:
        BackendUnavailable: pycocotools is not installed.
    """
    try:
        import pycocotools.cocoeval
    except ImportError as e:
        raise BackendUnavailable(
            f"mean average precision: expected pycocotools, got: {e}", hint=install_command("eval")
        ) from e
    return pycocotools.cocoeval


@dataclass
class AveragePrecision:
    """Accumulates detections and computes COCO mAP with pycocotools: https://cocodataset.org/#detection-eval.

    Args:
        classes: number of classes.
        overlap: what decides whether a detection is an object.
        keypoints: number of key points of an object; 17 are COCO's of a person, whose tolerances (sigmas) are COCO's;
            those of others are ``1 / keypoints``, as in Ultralytics.
    """

    classes: int
    overlap: Overlap = "boxes"
    keypoints: int = 0
    _truth: list[dict[str, Any]] = field(default_factory=list, init=False)
    _found: list[dict[str, Any]] = field(default_factory=list, init=False)
    _images: list[dict[str, int]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        require_pycocotools()

    def add(
        self,
        expected: FoundBoxes,
        found: FoundBoxes,
        ignored: FoundBoxes | None = None,
        size: tuple[int, int] = (1, 1),
    ) -> None:
        """Adds one image.

        Args:
            expected: ground-truth boxes.
            found: detections with scores; COCO evaluates the 100 highest-scoring ones of a class.
            ignored: regions that count neither as correct nor as wrong, such as COCO's crowds; each matches any number
                of detections of its class inside it.
            size: width and height of the image in px, for masks.

        Raises:
            UsageError: the detections have no scores, or a class is out of range.
        """
        if found.scores is None:
            raise UsageError("found boxes: expected scores, got none")
        self._images.append({"id": len(self._images) + 1, "width": size[0], "height": size[1]})
        self._truth += self._entries(expected, len(self._truth))
        self._found += self._entries(found, len(self._found))
        if ignored is not None:
            self._truth += [{**entry, "iscrowd": 1} for entry in self._entries(ignored, len(self._truth))]

    def figures(self) -> AveragePrecisions:
        """Computes the metrics over all images so far; NaN if none has a box."""
        evaluation = require_pycocotools().COCOeval(iouType=_IOU_TYPES[self.overlap])
        # pycocotools prints its progress.
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.cocoGt, evaluation.cocoDt = self._coco(self._truth), self._coco(self._found)
            evaluation.params.imgIds = list(range(1, len(self._images) + 1))
            evaluation.params.catIds = list(range(1, self.classes + 1))
            evaluation.params.maxDets = [MAX_POSES if self.overlap == "keypoints" else MAX_DETECTIONS]
            if self.overlap == "keypoints" and self.keypoints != len(evaluation.params.kpt_oks_sigmas):
                evaluation.params.kpt_oks_sigmas = np.full(self.keypoints, 1 / self.keypoints)
            if self.overlap == "rotated":
                evaluation.computeIoU = lambda image, kind: _rotated_overlaps(evaluation, image, kind)
            evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
            evaluation.evaluate()
            evaluation.accumulate()
        # Axes: IoU thresholds, recalls, classes, areas, numbers of detections; -1 for classes without boxes.
        precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
        precision = np.where(precision < 0, np.nan, precision)
        return AveragePrecisions(
            map50=_mean(precision[0]),
            map50_95=_mean(precision),
            per_class=tuple(_mean(precision[:, :, i]) for i in range(self.classes)),
            curve50=tuple(_mean(each) for each in precision[0]),
            curve75=tuple(_mean(each) for each in precision[5]),
        )

    def _entries(self, boxes: FoundBoxes, before: int) -> list[dict[str, Any]]:
        corners = np.asarray(boxes.corners, np.float64).reshape(-1, 4)
        kinds = np.asarray(boxes.classes)
        if kinds.size and not (0 <= kinds.min() and kinds.max() < self.classes):
            raise UsageError(f"classes of boxes: expected 0 to {self.classes - 1}, got {kinds.min()} to {kinds.max()}")
        scores = np.ones(len(kinds)) if boxes.scores is None else boxes.scores
        sizes = corners[:, 2:] - corners[:, :2]
        rows = zip(corners.tolist(), sizes.tolist(), kinds.tolist(), np.asarray(scores).tolist(), strict=True)
        fields = boxes.fields or [{}] * len(kinds)
        return [
            {
                "id": before + i + 1,  # 0 means unmatched to pycocotools
                "image_id": len(self._images),
                "category_id": kind + 1,
                "bbox": [x, y, width, height],
                "area": width * height,
                "iscrowd": 0,
                "score": score,
                **fields[i],
            }
            for i, ((x, y, _, _), (width, height), kind, score) in enumerate(rows)
        ]

    def _coco(self, annotations: list[dict[str, Any]]) -> Any:
        from pycocotools.coco import COCO

        coco = COCO()
        coco.dataset = {
            "images": self._images,
            "categories": [{"id": i + 1} for i in range(self.classes)],
            "annotations": annotations,
        }
        coco.createIndex()
        return coco


def _rotated_overlaps(evaluation: Any, image: int, kind: int) -> Any:
    """Computes what pycocotools' ``computeIoU`` does, of rotated boxes; an ignored region counts like a box."""
    truth, found = evaluation._gts[image, kind], evaluation._dts[image, kind]
    if not truth and not found:
        return []
    found = sorted(found, key=lambda entry: -entry["score"])[: evaluation.params.maxDets[-1]]
    return overlaps_of_rotated(
        *(np.array([each["rotated"] for each in side]).reshape(-1, 5) for side in (found, truth))
    )


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan
