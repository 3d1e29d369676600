"""Evaluator of the task ``classify``: top-1 and top-5 accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.arguments import argument
from edgekit.data.examples import DataSet
from edgekit.errors import RunError
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
from edgekit.evaluation.metrics import ranks, share
from edgekit.runtime.session import Session
from edgekit.runtime.tasks.classify import logits_from_outputs, softmax

__all__ = ["MEASURE"]

TOP = 5


class ClassifyEvaluator(SessionEvaluator):
    """See `TaskEvaluator`."""

    def __init__(self, session: Session, examples: DataSet) -> None:
        super().__init__(session)
        self._map, self._count = matched_classes(session, examples)
        self._labels = examples.labels
        self._targets: list[np.ndarray] = []
        self._ranks: list[np.ndarray] = []
        self._predicted: list[np.ndarray] = []
        self._probabilities: list[np.ndarray] = []
        self._ids: list[str] = []

    def evaluate(self, batch: Sequence[Ready]) -> None:
        logits = logits_from_outputs(self._run(batch), self._session.manifest)
        if logits.shape[1] != self._count:
            got = logits.shape[1]
            raise RunError(
                f"'{self._session.manifest.name}': expected a logit for each of {self._count} classes, got {got}",
                hint="" if self._session.manifest.labels else f"name the model's {got} classes: {argument('labels')}",
            )
        targets = self._map[np.array([ready.example.target for ready in batch], np.int64)]
        self._targets.append(targets)
        own = logits[: len(batch)]
        self._ranks.append(ranks(own, targets))
        self._predicted.append(own.argmax(axis=1))
        self._probabilities.append(softmax(own)[np.arange(len(own)), targets])
        self._ids += [ready.example.id for ready in batch]

    def figures(self) -> dict[str, float]:
        found = np.concatenate(self._ranks)
        figures = {"accuracy": share(found < 1)}
        return figures | {"top5": share(found < TOP)} if self._count > TOP else figures

    def per_class(self) -> tuple[ClassFigure, ...]:
        right, targets = np.concatenate(self._ranks) < 1, np.concatenate(self._targets)
        own = [right[targets == i] for i in self._map]
        return tuple(
            ClassFigure(label=label, count=len(mine), value=share(mine))
            for label, mine in zip(self._labels, own, strict=True)
        )

    def details(self) -> Details:
        targets, predicted = np.concatenate(self._targets), np.concatenate(self._predicted)
        pairs, counts = np.unique(np.stack([targets, predicted], axis=1), axis=0, return_counts=True)
        labels = self._session.manifest.labels or tuple(self._labels)
        probabilities = np.concatenate(self._probabilities)
        wrong = np.flatnonzero(targets != predicted)
        worst = wrong[np.argsort(probabilities[wrong], kind="stable")][:MISTAKES].tolist()
        return Details(
            labels=tuple(labels),
            confusion=tuple((int(a), int(b), int(n)) for (a, b), n in zip(pairs, counts, strict=True)),
            mistakes=tuple(
                Mistake(
                    index=i,
                    id=self._ids[i],
                    text=f"{labels[targets[i]]} ({probabilities[i]:.1%}), taken for {labels[predicted[i]]}",
                )
                for i in worst
            ),
        )


MEASURE = Measure(
    task="classify",
    make=lambda session, examples, scoring: ClassifyEvaluator(session, examples),
    figures={"accuracy": Figure("accuracy", counts_examples=True), "top5": Figure("top-5 accuracy")},
    class_figure="accuracy",
    measures_tensors=True,
)
