"""Evaluators, one per task: run an engine on examples and compare its outputs with the targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from edgekit.data.examples import Boxes, DataSet, Example, feeds_from_example, input_from_image
from edgekit.data.images import Placement
from edgekit.data.vocabulary import ids_from_text
from edgekit.errors import DataError, RunError, UsageError
from edgekit.evaluation.labels import model_classes_from_labels
from edgekit.evaluation.metrics import (
    MAX_DETECTIONS,
    AveragePrecision,
    FoundBoxes,
    ranks,
    regression_figures,
    sequence_figures,
    share,
)
from edgekit.runtime.session import Session
from edgekit.runtime.tasks.classify import logits_from_outputs
from edgekit.runtime.tasks.translate import SOURCE
from edgekit.specs import UNKNOWN, TensorSpec

__all__ = ["ClassFigure", "TaskEvaluator", "Ready", "batch_of", "evaluator_from_session"]

TOP = 5

Arrays = dict[str, np.ndarray]


class ClassFigure(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy of the engine on one class.

    Attributes:
        label: name of the class.
        count: number of examples or boxes of the class.
        value: for a classifier, the fraction recognized; for a detector, ``map50_95``. NaN if ``count`` is 0.
    """

    label: str
    count: int
    value: float


class Ready(NamedTuple):
    """An example prepared for the engine: its inputs, with a batch of 1, and the placement of its image in them."""

    example: Example
    feeds: Arrays
    placement: Placement | None = None


class TaskEvaluator(Protocol):
    """Runs an engine on examples and accumulates the metrics of a task."""

    def ready(self, example: Example) -> Ready:
        """Prepares an example as the engine's inputs.

        Raises:
            DataError: the example does not match the engine's inputs.
        """
        ...

    def evaluate(self, batch: Sequence[Ready]) -> None:
        """Runs the engine on at most one full batch of examples."""
        ...

    def figures(self) -> dict[str, float]:
        """Metrics over all examples so far, by name."""
        ...

    def per_class(self) -> tuple[ClassFigure, ...]:
        """Metric of each class, in the data set's order; empty if there are no classes."""
        ...


def evaluator_from_session(session: Session, examples: DataSet, *, score_threshold: float) -> TaskEvaluator:
    """Creates the evaluator for an engine's task on a data set.

    An engine without a known task, built from an ONNX file or a module, is evaluated for the data set's task.

    Raises:
        UsageError: the data set is for another task, or has other classes.
        BackendUnavailable: evaluating a detector needs pycocotools.
    """
    own = session.manifest.task
    task = examples.task if own == "tensor" and examples.task in ("classify", "regress") else own
    if task != examples.task or task not in ("classify", "detect", "regress", "translate"):
        raise UsageError(
            f"data set {examples.name}: expected one for the task '{own}' of '{session.manifest.name}', got one for "
            f"'{examples.task}'"
        )
    if task == "detect":
        return _Detection(session, examples, score_threshold)
    if task == "classify":
        return _Classification(session, examples)
    return _Translation(session, examples) if task == "translate" else _Regression(session)


def batch_of(session: Session) -> int:
    """Returns the engine's batch size; for a dynamic batch, the ``opt`` size."""
    spec = session.inputs[0]
    size = spec.shape[0] if spec.shape else 1
    if isinstance(size, int):
        return size
    shapes = session.manifest.shapes.get(spec.name)
    return shapes.opt[0] if shapes is not None else 1


def _one(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """The input specs with a batch of 1."""
    return [msgspec.structs.replace(spec, shape=(1, *spec.shape[1:])) for spec in specs]


def _stacked(session: Session, batch: Sequence[Ready]) -> Arrays:
    """Stacks examples to a batch; repeats the last one if there are fewer than the engine's smallest batch."""
    spec = session.inputs[0]
    min_batch = spec.shape[0]
    if not isinstance(min_batch, int):
        min_batch = session.manifest.shapes[spec.name].min[0] if spec.name in session.manifest.shapes else 1
    rows = [*batch, *[batch[-1]] * (min_batch - len(batch))]
    dtypes = {spec.name: np.dtype(spec.dtype) for spec in session.inputs}
    return {
        name: np.concatenate([row.feeds[name] for row in rows]).astype(dtypes[name], copy=False)
        for name in batch[0].feeds
    }


def _classes(session: Session, examples: DataSet) -> tuple[np.ndarray, int]:
    """Returns the model's class index of each class of the data set, and the model's number of classes."""
    own = session.manifest.labels
    if not own:  # built from an ONNX file without labels: assume the data set's order
        return np.arange(len(examples.labels)), len(examples.labels)
    return model_classes_from_labels(own, examples.labels, name=examples.name), len(own)


class _Base:
    """Parts that all evaluators share."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._shapes = session.manifest.shapes
        self._specs = _one(session.inputs)

    def ready(self, example: Example) -> Ready:
        how = self._session.manifest.preprocess
        return Ready(
            example, feeds_from_example(example, self._specs, how, self._session.manifest.labels, self._shapes)
        )

    def per_class(self) -> tuple[ClassFigure, ...]:
        return ()

    def _run(self, batch: Sequence[Ready]) -> dict[str, np.ndarray]:
        return self._session.run(_stacked(self._session, batch))


class _Classification(_Base):
    def __init__(self, session: Session, examples: DataSet) -> None:
        super().__init__(session)
        self._map, self._count = _classes(session, examples)
        self._labels = examples.labels
        self._targets: list[np.ndarray] = []
        self._ranks: list[np.ndarray] = []

    def evaluate(self, batch: Sequence[Ready]) -> None:
        logits = logits_from_outputs(self._run(batch), self._session.manifest)
        if logits.shape[1] != self._count:
            raise RunError(
                f"'{self._session.manifest.name}': expected one logit per class, {self._count}, got {logits.shape[1]}"
            )
        targets = self._map[np.array([ready.example.target for ready in batch], np.int64)]
        self._targets.append(targets)
        self._ranks.append(ranks(logits[: len(batch)], targets))

    def figures(self) -> dict[str, float]:
        found = np.concatenate(self._ranks)
        figures = {"accuracy": share(found < 1)}
        return figures | {"top5": share(found < TOP)} if self._count > TOP else figures

    def per_class(self) -> tuple[ClassFigure, ...]:
        correct, targets = np.concatenate(self._ranks) < 1, np.concatenate(self._targets)
        own = [correct[targets == i] for i in self._map]
        return tuple(
            ClassFigure(label=label, count=len(mine), value=share(mine))
            for label, mine in zip(self._labels, own, strict=True)
        )


class _Regression(_Base):
    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._predicted: list[np.ndarray] = []
        self._expected: list[np.ndarray] = []

    def evaluate(self, batch: Sequence[Ready]) -> None:
        outputs = self._run(batch)
        expected = np.stack([np.ravel(np.asarray(ready.example.target, np.float64)) for ready in batch])
        got = next(iter(outputs.values()))
        if len(outputs) != 1 or got[: len(batch)].size != expected.size:
            shapes = "; ".join(f"{name} {array.shape}" for name, array in outputs.items())
            raise RunError(
                f"'{self._session.manifest.name}': expected one output with {expected.shape[1]} numbers per example, "
                f"got {shapes}"
            )
        self._predicted.append(got[: len(batch)].reshape(expected.shape))
        self._expected.append(expected)

    def figures(self) -> dict[str, float]:
        return regression_figures(np.concatenate(self._predicted), np.concatenate(self._expected))


class _Detection(_Base):
    def __init__(self, session: Session, examples: DataSet, score_threshold: float) -> None:
        super().__init__(session)
        self._map, self._count = _classes(session, examples)
        self._labels = examples.labels
        self._score_threshold = score_threshold
        self._precision = AveragePrecision(self._count)
        self._counts = np.zeros(self._count, np.int64)
        self._per_class: tuple[float, ...] = ()

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
                f"'{self._session.manifest.name}': expected detections of {self._count} classes, got class "
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

    def figures(self) -> dict[str, float]:
        found = self._precision.figures()
        self._per_class = found.per_class
        return {"map50": found.map50, "map50_95": found.map50_95}

    def per_class(self) -> tuple[ClassFigure, ...]:
        per_class = self._per_class or self._precision.figures().per_class
        return tuple(
            ClassFigure(label=label, count=int(self._counts[i]), value=per_class[i])
            for label, i in zip(self._labels, self._map, strict=True)
        )


class _Translation(_Base):
    def __init__(self, session: Session, examples: DataSet) -> None:
        super().__init__(session)
        self._vocabulary = session.manifest.labels or tuple(examples.labels)
        self._predicted: list[list[int]] = []
        self._expected: list[list[int | None]] = []

    def ready(self, example: Example) -> Ready:
        source = [spec for spec in self._specs if spec.name == SOURCE]
        return Ready(example, feeds_from_example(example, source, None, self._vocabulary))

    def evaluate(self, batch: Sequence[Ready]) -> None:
        written = self._session.tokens(_stacked(self._session, batch)[SOURCE])[: len(batch)]
        self._predicted += written
        for ready in batch:
            ids = ids_from_text(str(ready.example.target), self._vocabulary)
            # A token that is not in the vocabulary cannot be predicted: an engine that outputs UNKNOWN is wrong.
            self._expected.append([None if token == UNKNOWN else token for token in ids])

    def figures(self) -> dict[str, float]:
        return sequence_figures(self._predicted, self._expected)
