"""The common parts of all evaluators, and the declaration of a task's evaluator and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from edgekit.data.examples import DataSet, Example, feeds_from_example
from edgekit.data.images import Placement
from edgekit.evaluation.labels import model_classes_from_labels
from edgekit.recipe.schema import Task
from edgekit.runtime.session import Session
from edgekit.specs import TensorSpec

__all__ = [
    "ClassFigure",
    "Details",
    "Figure",
    "MISTAKES",
    "Measure",
    "Mistake",
    "Ready",
    "Scoring",
    "SessionEvaluator",
    "TaskEvaluator",
    "batch_of",
    "matched_classes",
    "stacked",
]

Arrays = dict[str, np.ndarray]
MISTAKES = 12
"""So many of the worst examples are kept."""


class Figure(msgspec.Struct, frozen=True):
    """The name and kind of an accuracy figure.

    Attributes:
        title: name in tables.
        is_share: the figure is between 0 and 1 and shown in percent.
        more_is_better: a greater figure is better.
        counts_examples: the figure is the share of correct examples, so that all examples have equal weight.
    """

    title: str
    is_share: bool = True
    more_is_better: bool = True
    counts_examples: bool = False


class ClassFigure(msgspec.Struct, frozen=True, kw_only=True):
    """The accuracy figure of one class.

    Attributes:
        label: name of the class.
        count: number of examples or objects of the class.
        value: the figure that `Measure.class_figure` names, between 0 and 1; NaN if ``count`` is 0.
    """

    label: str
    count: int
    value: float


class Mistake(msgspec.Struct, frozen=True, kw_only=True):
    """An example on which the engine is wrong.

    Attributes:
        index: its place in the data set.
        id: its name.
        text: what is wrong, in words.
        boxes: boxes that were found above the engine's score threshold, as ``(x1, y1, x2, y2)`` in px of the image;
            empty if it is no detector.
        classes: the model's class of each box.
        scores: score of each box.
    """

    index: int
    id: str
    text: str
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    classes: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """What stands behind the figures.

    Attributes:
        labels: names of the classes in ``confusion``.
        confusion: expected class, predicted class, and number of examples or objects, without zeros; -1 is no object.
        curves: precision at 101 recalls from 0 to 1, the mean over all classes, by threshold of the overlap.
        mistakes: some of the examples on which the engine is wrong, the worst first.
    """

    labels: tuple[str, ...] = ()
    confusion: tuple[tuple[int, int, int], ...] = ()
    curves: dict[str, tuple[float, ...]] = {}
    mistakes: tuple[Mistake, ...] = ()


class Ready(NamedTuple):
    """A preprocessed example: the engine's inputs, for a batch of one, and the placement of an image in them."""

    example: Example
    feeds: Arrays
    placement: Placement | None = None


class Scoring(NamedTuple):
    """What detectors find in an evaluation.

    Attributes:
        score_threshold: detections with a lower score are ignored.
        multi_label: every class of a box whose score passes is a detection, as COCO's precision-recall curves want
            it; otherwise only the best one.
    """

    score_threshold: float
    multi_label: bool = True


class TaskEvaluator(Protocol):
    """Runs an engine on examples and computes its accuracy figures."""

    def ready(self, example: Example) -> Ready:
        """Converts an example to the engine's inputs.

        Raises:
            DataError: the example does not fit the engine.
        """
        ...

    def evaluate(self, batch: Sequence[Ready]) -> None:
        """Runs the engine on a batch of examples, which may be smaller than the engine's batch."""
        ...

    def figures(self) -> dict[str, float]:
        """Returns the figures of all examples so far, by name."""
        ...

    def per_class(self) -> tuple[ClassFigure, ...]:
        """Returns the figure of each class, in the data set's order; empty if there are no classes."""
        ...

    def details(self) -> Details:
        """Returns what stands behind the figures; the index of a mistake is its place among those evaluated."""
        ...


@dataclass(frozen=True, kw_only=True)
class Measure:
    """The evaluator and figures of a task; each module of this package has one, called ``MEASURE``.

    Attributes:
        task: name of the task in recipes and manifests.
        make: makes the evaluator of a session on a data set.
        figures: the figures by name.
        class_figure: title of the figure of a single class; empty if there are no classes.
        has_scores: results have scores, and the score threshold applies.
        measures_tensors: engines whose task is unknown (``tensor``) can be evaluated for this task.
        also: other tasks whose engines can be evaluated for this task.
    """

    task: Task
    make: Callable[[Session, DataSet, Scoring], TaskEvaluator]
    figures: Mapping[str, Figure]
    class_figure: str = ""
    has_scores: bool = False
    measures_tensors: bool = False
    also: tuple[Task, ...] = ()


def batch_of(session: Session) -> int:
    """Returns the engine's batch size; if it is dynamic, the opt size."""
    spec = session.inputs[0]
    size = spec.shape[0] if spec.shape else 1
    if isinstance(size, int):
        return size
    shapes = session.manifest.shapes.get(spec.name)
    return shapes.opt[0] if shapes is not None else 1


def _one(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Returns the inputs with a batch size of 1."""
    return [msgspec.structs.replace(spec, shape=(1, *spec.shape[1:])) for spec in specs]


def stacked(session: Session, batch: Sequence[Ready]) -> Arrays:
    """Concatenates a batch to the engine's inputs; repeats the last example if the batch is too small."""
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


def matched_classes(session: Session, examples: DataSet) -> tuple[np.ndarray, int]:
    """Returns the model's index of each class of the data set, and the model's number of classes."""
    own = session.manifest.labels
    if not own:  # an ONNX file has no labels: its classes are assumed to be in the set's order
        return np.arange(len(examples.labels)), len(examples.labels)
    return model_classes_from_labels(own, examples.labels, name=examples.name), len(own)


class SessionEvaluator:
    """Base class of evaluators: converts examples to inputs and runs batches."""

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

    def details(self) -> Details:
        return Details()

    def _run(self, batch: Sequence[Ready]) -> dict[str, np.ndarray]:
        return self._session.run(stacked(self._session, batch))
