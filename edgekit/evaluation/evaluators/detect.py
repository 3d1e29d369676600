"""Evaluator of the task ``detect``: mean average precision of boxes, as COCO computes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from edgekit.data.examples import Boxes, DataSet, Example, input_from_image
from edgekit.errors import DataError, RunError
from edgekit.evaluation.evaluators.base import (
    MISTAKES,
    ClassFigure,
    Details,
    Figure,
    Measure,
    Mistake,
    Ready,
    Scoring,
    SessionEvaluator,
    matched_classes,
)
from edgekit.evaluation.metrics import (
    MAX_DETECTIONS,
    NO_OBJECT,
    AveragePrecision,
    AveragePrecisions,
    FoundBoxes,
    Overlap,
    matched_classes_of_boxes,
    scores_of_matched,
)
from edgekit.measure.agreement import overlaps_of_boxes
from edgekit.runtime.detections import Detections
from edgekit.runtime.session import Session

__all__ = ["BOX_FIGURES", "MEASURE", "DetectEvaluator"]

Fields = list[dict[str, Any]]


class DetectEvaluator(SessionEvaluator):
    """See `TaskEvaluator`.

    Attributes:
        overlaps: how detections are compared with objects, by the prefix of the figures; the first is that of the
            figures of classes and of the curves.
    """

    overlaps: ClassVar[Mapping[str, Overlap]] = {"": "boxes"}

    def __init__(self, session: Session, examples: DataSet, scoring: Scoring) -> None:
        super().__init__(session)
        self._map, self._count = matched_classes(session, examples)
        self._labels = examples.labels
        self._scoring = scoring
        self._precisions = {name: self._precision(overlap) for name, overlap in self.overlaps.items()}
        self._counts = np.zeros(self._count, np.int64)
        self._found: dict[str, AveragePrecisions] = {}
        self._confusion: dict[tuple[int, int], int] = {}
        self._matched_scores: list[float] = []
        self._mistakes: list[tuple[int, Mistake]] = []
        self._evaluated = 0

    def ready(self, example: Example) -> Ready:
        how, spec = self._session.manifest.preprocess, self._specs[0]
        if how is None:
            raise DataError(f"{example.id}: expected an engine that takes images, got one that takes arrays")
        if isinstance(example.target, Boxes):  # an annotation that does not fit leaves its example out
            self._expected_fields(example.target, example.id)
        array, placement = input_from_image(example, spec, how)
        return Ready(example, {spec.name: array}, placement)

    def evaluate(self, batch: Sequence[Ready]) -> None:
        outputs = self._run(batch)
        for i, ready in enumerate(batch):
            self._add(ready, {name: array[i : i + 1] for name, array in outputs.items()})

    def _precision(self, overlap: Overlap) -> AveragePrecision:
        return AveragePrecision(self._count, overlap)

    def _expected_fields(self, boxes: Boxes, where: str) -> Fields:
        """Returns the `FoundBoxes.fields` of objects.

        Raises:
            DataError: an annotation does not fit the engine.
        """
        return []

    def _found_fields(self, found: Any) -> Fields:
        """Returns the `FoundBoxes.fields` of detections."""
        return []

    def _compared(self, boxes: FoundBoxes) -> FoundBoxes:
        """Returns the boxes that confusions and matched scores are counted by, in place of the corners."""
        return boxes

    def _overlaps(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Returns the intersection over union of what `_compared` returns."""
        return overlaps_of_boxes(one, other)

    def _add(self, ready: Ready, outputs: Mapping[str, np.ndarray]) -> None:
        truth = ready.example.target
        assert isinstance(truth, Boxes) and ready.placement is not None
        detections = self._session.postprocess(
            outputs,
            ready.placement,
            score_threshold=self._scoring.score_threshold,
            max_detections=MAX_DETECTIONS,
            multi_label=self._scoring.multi_label,
        )
        if len(detections) and detections.classes.max() >= self._count:
            raise RunError(
                f"'{self._session.manifest.name}': expected objects of {self._count} classes, got one of class "
                f"{detections.classes.max()}"
            )
        expected = self._of_truth(truth, ready.example.id)
        found = FoundBoxes(detections.boxes, detections.classes, detections.scores, self._found_fields(detections))
        ignored = None if truth.ignored is None else self._of_truth(truth.ignored, ready.example.id)
        self._counts += np.bincount(expected.classes, minlength=self._count)
        for precision in self._precisions.values():
            precision.add(expected, found, ignored, ready.placement.size)
        compared = self._compared(expected), self._compared(found)
        self._matched_scores += scores_of_matched(*compared, self._overlaps)
        hidden = self._compared(ignored) if ignored is not None else None
        self._confuse(ready.example, *compared, hidden, detections)

    def _of_truth(self, boxes: Boxes, where: str) -> FoundBoxes:
        return FoundBoxes(boxes.corners, self._map[boxes.classes], fields=self._expected_fields(boxes, where))

    def _confuse(
        self, example: Example, expected: FoundBoxes, found: FoundBoxes, ignored: FoundBoxes | None, shown: Detections
    ) -> None:
        """Counts which classes are taken for which, at the engine's own score threshold."""
        how = self._session.manifest.postprocess
        assert how is not None and found.scores is not None  # the session has decoded boxes with it
        kept = found.scores > how.score_threshold
        corners, kinds = found.corners[kept], found.classes[kept]
        hidden = found.corners[:0] if ignored is None else ignored.corners
        pairs = matched_classes_of_boxes(expected, FoundBoxes(corners, kinds), hidden, self._overlaps)
        for pair in pairs:
            self._confusion[pair] = self._confusion.get(pair, 0) + 1
        counts = {
            "missed": sum(b == NO_OBJECT for _, b in pairs),
            "of another class": sum(NO_OBJECT not in (a, b) and a != b for a, b in pairs),
            "false": sum(a == NO_OBJECT for a, _ in pairs),
        }
        wrong = sum(counts.values())
        if wrong:
            mistake = Mistake(
                index=self._evaluated,
                id=example.id,
                text=", ".join(f"{count} {words}" for words, count in counts.items() if count),
                boxes=tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in shown.boxes[kept]),
                classes=tuple(map(int, kinds)),
                scores=tuple(map(float, found.scores[kept])),
            )
            self._mistakes.append((wrong, mistake))
            self._mistakes = sorted(self._mistakes, key=lambda each: -each[0])[:MISTAKES]
        self._evaluated += 1

    def figures(self) -> dict[str, float]:
        self._found = {name: precision.figures() for name, precision in self._precisions.items()}
        figures: dict[str, float] = {}
        for name, found in self._found.items():
            figures |= {f"{name}map50": found.map50, f"{name}map50_95": found.map50_95}
        scores = self._matched_scores
        return figures | {"median_score": float(np.median(scores)) if scores else float("nan")}

    def _first(self) -> AveragePrecisions:
        if not self._found:
            self.figures()
        return next(iter(self._found.values()))

    def per_class(self) -> tuple[ClassFigure, ...]:
        per_class = self._first().per_class
        return tuple(
            ClassFigure(label=label, count=int(self._counts[i]), value=per_class[i])
            for label, i in zip(self._labels, self._map, strict=True)
        )

    def details(self) -> Details:
        found = self._first()
        return Details(
            labels=self._session.manifest.labels or tuple(self._labels),
            confusion=tuple((a, b, n) for (a, b), n in sorted(self._confusion.items())),
            curves={"IoU 0.50": found.curve50, "IoU 0.75": found.curve75},
            mistakes=tuple(mistake for _, mistake in self._mistakes),
        )


BOX_FIGURES = {
    "map50": Figure("mAP 0.50"),
    "map50_95": Figure("mAP 0.50:0.95"),
    "median_score": Figure("median score of found objects", is_share=False),
}

MEASURE = Measure(
    task="detect",
    make=DetectEvaluator,
    figures=BOX_FIGURES,
    class_figure="mAP 0.50:0.95",
    has_scores=True,
    also=("segment", "pose", "obb"),
)
