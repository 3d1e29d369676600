"""Evaluator of the task ``detect``: mean average precision, as COCO computes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    SessionEvaluator,
    matched_classes,
)
from edgekit.evaluation.metrics import (
    MAX_DETECTIONS,
    NO_OBJECT,
    AveragePrecision,
    FoundBoxes,
    matched_classes_of_boxes,
)
from edgekit.runtime.session import Session
from edgekit.runtime.tasks.detect import Detections

__all__ = ["MEASURE"]


class DetectEvaluator(SessionEvaluator):
    """See `TaskEvaluator`."""

    def __init__(self, session: Session, examples: DataSet, score_threshold: float) -> None:
        super().__init__(session)
        self._map, self._count = matched_classes(session, examples)
        self._labels = examples.labels
        self._score_threshold = score_threshold
        self._precision = AveragePrecision(self._count)
        self._counts = np.zeros(self._count, np.int64)
        self._per_class: tuple[float, ...] = ()
        self._curves: dict[str, tuple[float, ...]] = {}
        self._confusion: dict[tuple[int, int], int] = {}
        self._mistakes: list[tuple[int, Mistake]] = []
        self._evaluated = 0

    def ready(self, example: Example) -> Ready:
        how, spec = self._session.manifest.preprocess, self._specs[0]
        if how is None:
            raise DataError(f"{example.id}: expected an engine that takes images, got one that takes arrays")
        array, placement = input_from_image(example, spec, how)
        return Ready(example, {spec.name: array}, placement)

    def evaluate(self, batch: Sequence[Ready]) -> None:
        outputs = self._run(batch)
        for i, ready in enumerate(batch):
            self._add(ready, {name: array[i : i + 1] for name, array in outputs.items()})

    def _add(self, ready: Ready, outputs: Mapping[str, np.ndarray]) -> None:
        expected = ready.example.target
        assert isinstance(expected, Boxes) and ready.placement is not None
        found = self._session.postprocess(
            outputs, ready.placement, score_threshold=self._score_threshold, max_detections=MAX_DETECTIONS
        )
        if len(found) and found.classes.max() >= self._count:
            raise RunError(
                f"'{self._session.manifest.name}': expected objects of {self._count} classes, got one of class "
                f"{found.classes.max()}"
            )
        classes = self._map[expected.classes]
        self._counts += np.bincount(classes, minlength=self._count)
        ignored = expected.ignored
        self._precision.add(
            FoundBoxes(expected.corners, classes),
            FoundBoxes(found.boxes, found.classes, found.scores),
            None if ignored is None else FoundBoxes(ignored.corners, self._map[ignored.classes]),
        )
        self._confuse(ready.example, expected, classes, found)

    def _confuse(self, example: Example, expected: Boxes, classes: np.ndarray, found: Detections) -> None:
        """Counts which classes are taken for which, at the engine's own score threshold."""
        how = self._session.manifest.postprocess
        assert how is not None  # the session has decoded boxes with it
        kept = found.scores > how.score_threshold
        boxes, kinds, scores = found.boxes[kept], found.classes[kept], found.scores[kept]
        ignored = np.zeros((0, 4)) if expected.ignored is None else expected.ignored.corners
        pairs = matched_classes_of_boxes(FoundBoxes(expected.corners, classes), FoundBoxes(boxes, kinds), ignored)
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
                boxes=tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in boxes),
                classes=tuple(map(int, kinds)),
                scores=tuple(map(float, scores)),
            )
            self._mistakes.append((wrong, mistake))
            self._mistakes = sorted(self._mistakes, key=lambda each: -each[0])[:MISTAKES]
        self._evaluated += 1

    def figures(self) -> dict[str, float]:
        found = self._precision.figures()
        self._per_class = found.per_class
        self._curves = {"IoU 0.50": found.curve50, "IoU 0.75": found.curve75}
        return {"map50": found.map50, "map50_95": found.map50_95}

    def per_class(self) -> tuple[ClassFigure, ...]:
        per_class = self._per_class or self._precision.figures().per_class
        return tuple(
            ClassFigure(label=label, count=int(self._counts[i]), value=per_class[i])
            for label, i in zip(self._labels, self._map, strict=True)
        )

    def details(self) -> Details:
        return Details(
            labels=self._session.manifest.labels or tuple(self._labels),
            confusion=tuple((a, b, n) for (a, b), n in sorted(self._confusion.items())),
            curves=self._curves,
            mistakes=tuple(mistake for _, mistake in self._mistakes),
        )


MEASURE = Measure(
    task="detect",
    make=DetectEvaluator,
    figures={"map50": Figure("mAP 0.50"), "map50_95": Figure("mAP 0.50:0.95")},
    class_figure="mAP 0.50:0.95",
    has_scores=True,
)
