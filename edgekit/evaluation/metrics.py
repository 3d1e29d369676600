"""Figures of accuracy from predictions and what was expected, in numpy; average precision is pycocotools' own."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from edgekit.errors import BackendUnavailable, UsageError
from edgekit.extras import install_command

__all__ = [
    "AveragePrecision",
    "AveragePrecisions",
    "FoundBoxes",
    "ranks",
    "regression_figures",
    "require_pycocotools",
    "sequence_figures",
    "share",
]

MAX_DETECTIONS = 100
"""COCO counts no more than the best hundred of a picture."""


def share(right: np.ndarray) -> float:
    """Share of true values; NaN of none."""
    return float(np.mean(right)) if right.size else math.nan


def ranks(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """How many classes score better than the right one: 0 is a right answer, less than 5 one of the top five.

    Of equal scores the class with the lower number comes first, as with ``argmax``. Where a score is NaN there is no
    order, and the right class counts as the last.

    Args:
        scores: logits or probabilities; floats, shape ``(N, C)``.
        targets: the right classes, 0 to C - 1; integers, shape ``(N,)``.

    Returns:
        int64, shape ``(N,)``.

    Raises:
        UsageError: shapes do not go together, or a target is no class.
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
    """Mean squared error, its root, and the share of variance that is explained.

    ``mse = mean((y - p)^2)`` over all examples and outputs; ``r2 = 1 - sum((y - p)^2) / sum((y - mean(y))^2)``, of each
    output by itself, then averaged. An output that never varies has an ``r2`` of 1 where it is met and 0 where it is
    not, as in scikit-learn.

    Args:
        predicted: floats, shape ``(N,)`` or ``(N, K)``.
        expected: the same shape.

    Returns:
        ``mse``, ``rmse`` and ``r2``; the last is NaN of less than two examples.

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
    """How many tokens stand where they should, and how many sequences are right as a whole.

    Every sequence has an end, which is a token of its own: so what goes on too long loses a point too, and sequences
    of nothing can be right.

    Args:
        predicted: tokens that a model wrote by itself, ends left out; anything that can be compared.
        expected: the right ones.

    Returns:
        ``token_accuracy`` over all tokens of ``expected`` and their ends, and ``sequence_accuracy``.

    Raises:
        UsageError: there are not as many of the one as of the other.
    """
    if len(predicted) != len(expected):
        raise UsageError(f"expected as many predictions as targets, {len(expected)}, got {len(predicted)}")
    end = object()
    tokens = right = whole = 0
    for got, wanted in zip(predicted, expected, strict=True):
        got, wanted = [*got, end], [*wanted, end]
        tokens += len(wanted)
        right += sum(a == b for a, b in zip(got, wanted, strict=False))
        whole += got == wanted
    return {
        "token_accuracy": right / tokens if tokens else math.nan,
        "sequence_accuracy": whole / len(expected) if expected else math.nan,
    }


class FoundBoxes(NamedTuple):
    """Boxes in one picture.

    Attributes:
        corners: ``(x1, y1, x2, y2)`` in px of the picture; floats, shape ``(N, 4)``.
        classes: integers, shape ``(N,)``.
        scores: floats, shape ``(N,)``; of what was expected None.
    """

    corners: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None = None


@dataclass(frozen=True)
class AveragePrecisions:
    """Mean average precision, and that of each class.

    Attributes:
        map50: at an overlap of 0.50.
        map50_95: the mean of ten, at overlaps of 0.50, 0.55 ... 0.95: what COCO ranks by.
        per_class: ``map50_95`` of each class, by its number; NaN where no picture has one of it.
    """

    map50: float
    map50_95: float
    per_class: tuple[float, ...]


def require_pycocotools() -> Any:
    """The module ``pycocotools.cocoeval``.

    Raises:
        BackendUnavailable: it is not installed.
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
    """Collects pictures, and has pycocotools judge them as COCO does: https://cocodataset.org/#detection-eval.

    Args:
        classes: how many there are.
    """

    classes: int
    _truth: list[dict[str, Any]] = field(default_factory=list, init=False)
    _found: list[dict[str, Any]] = field(default_factory=list, init=False)
    _pictures: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        require_pycocotools()

    def add(self, expected: FoundBoxes, found: FoundBoxes, ignored: FoundBoxes | None = None) -> None:
        """One more picture.

        Args:
            expected: what is on it.
            found: what was found, with scores; COCO counts the best hundred of a class.
            ignored: what is neither right nor wrong to find, as COCO's crowds: it takes any number of found boxes of
                its class that lie in it.

        Raises:
            UsageError: what was found has no scores, or a class is unknown.
        """
        if found.scores is None:
            raise UsageError("found boxes: expected scores, got none")
        self._pictures += 1
        self._truth += self._entries(expected, len(self._truth))
        self._found += self._entries(found, len(self._found))
        if ignored is not None:
            self._truth += [{**entry, "iscrowd": 1} for entry in self._entries(ignored, len(self._truth))]

    def figures(self) -> AveragePrecisions:
        """What all pictures so far come to; NaN where none of them has a box."""
        evaluation = require_pycocotools().COCOeval(iouType="bbox")
        # pycocotools prints how far it is.
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.cocoGt, evaluation.cocoDt = self._coco(self._truth), self._coco(self._found)
            evaluation.params.imgIds = list(range(1, self._pictures + 1))
            evaluation.params.catIds = list(range(1, self.classes + 1))
            evaluation.params.maxDets = [1, 10, MAX_DETECTIONS]
            evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
            evaluation.evaluate()
            evaluation.accumulate()
        # Axes: overlaps, recalls, classes, areas, numbers of detections; -1 where there was nothing to find.
        precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
        precision = np.where(precision < 0, np.nan, precision)
        return AveragePrecisions(
            map50=_mean(precision[0]),
            map50_95=_mean(precision),
            per_class=tuple(_mean(precision[:, :, i]) for i in range(self.classes)),
        )

    def _entries(self, boxes: FoundBoxes, before: int) -> list[dict[str, Any]]:
        corners = np.asarray(boxes.corners, np.float64).reshape(-1, 4)
        kinds = np.asarray(boxes.classes)
        if kinds.size and not (0 <= kinds.min() and kinds.max() < self.classes):
            raise UsageError(f"classes of boxes: expected 0 to {self.classes - 1}, got {kinds.min()} to {kinds.max()}")
        scores = np.ones(len(kinds)) if boxes.scores is None else boxes.scores
        sizes = corners[:, 2:] - corners[:, :2]
        rows = zip(corners.tolist(), sizes.tolist(), kinds.tolist(), np.asarray(scores).tolist(), strict=True)
        return [
            {
                "id": before + i + 1,  # 0 means unmatched to pycocotools
                "image_id": self._pictures,
                "category_id": kind + 1,
                "bbox": [x, y, width, height],
                "area": width * height,
                "iscrowd": 0,
                "score": score,
            }
            for i, ((x, y, _, _), (width, height), kind, score) in enumerate(rows)
        ]

    def _coco(self, annotations: list[dict[str, Any]]) -> Any:
        from pycocotools.coco import COCO

        coco = COCO()
        coco.dataset = {
            "images": [{"id": i + 1} for i in range(self._pictures)],
            "categories": [{"id": i + 1} for i in range(self.classes)],
            "annotations": annotations,
        }
        coco.createIndex()
        return coco


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan
