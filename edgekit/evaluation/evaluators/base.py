"""What evaluators of all tasks have in common, and how a task says how its engines are measured."""

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
    "Figure",
    "Measure",
    "Ready",
    "SessionEvaluator",
    "TaskEvaluator",
    "batch_of",
    "matched_classes",
    "stacked",
]

Arrays = dict[str, np.ndarray]


class Figure(msgspec.Struct, frozen=True):
    """How a figure is shown.

    Attributes:
        title: its name in tables.
        is_share: between 0 and 1, shown in percent.
        more_is_better: of two engines that with the greater one is better.
        counts_examples: the share of examples that are right, so that one example weighs the same as any other.
    """

    title: str
    is_share: bool = True
    more_is_better: bool = True
    counts_examples: bool = False


class ClassFigure(msgspec.Struct, frozen=True, kw_only=True):
    """How right the engine is on one class.

    Attributes:
        label: the class.
        count: how many there were of it.
        value: between 0 and 1, what `Measure.class_figure` names. NaN where there were none.
    """

    label: str
    count: int
    value: float


class Ready(NamedTuple):
    """An example made ready for the engine: its inputs, for a batch of one, and where a picture lies in them."""

    example: Example
    feeds: Arrays
    placement: Placement | None = None


class TaskEvaluator(Protocol):
    """Asks an engine and counts what it gets right."""

    def ready(self, example: Example) -> Ready:
        """The example as the engine's inputs.

        Raises:
            DataError: it is not what the engine takes.
        """
        ...

    def evaluate(self, batch: Sequence[Ready]) -> None:
        """Runs the engine on as many examples as it takes at once, or fewer."""
        ...

    def figures(self) -> dict[str, float]:
        """The figures of all examples so far, by name."""
        ...

    def per_class(self) -> tuple[ClassFigure, ...]:
        """Those of each class, in the data set's order; nothing where there are no classes."""
        ...


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How engines for one task are measured; each module of this package has one, called ``MEASURE``.

    Attributes:
        task: as in recipes and manifests.
        make: makes the evaluator of a session on a data set; the number is the score threshold.
        figures: what is measured, by name.
        class_figure: title of the figure of a single class; empty where there are no classes.
        has_scores: what an engine finds has scores, and below a threshold it does not count.
        measures_tensors: an engine of which no task is known can be measured at this one.
    """

    task: Task
    make: Callable[[Session, DataSet, float], TaskEvaluator]
    figures: Mapping[str, Figure]
    class_figure: str = ""
    has_scores: bool = False
    measures_tensors: bool = False


def batch_of(session: Session) -> int:
    """How many examples the engine takes at once; of an open batch, the usual number."""
    spec = session.inputs[0]
    size = spec.shape[0] if spec.shape else 1
    if isinstance(size, int):
        return size
    shapes = session.manifest.shapes.get(spec.name)
    return shapes.opt[0] if shapes is not None else 1


def _one(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """The inputs for a single example."""
    return [msgspec.structs.replace(spec, shape=(1, *spec.shape[1:])) for spec in specs]


def stacked(session: Session, batch: Sequence[Ready]) -> Arrays:
    """The batch as the engine takes it: with the last example again where there are fewer than it can do with."""
    spec = session.inputs[0]
    least = spec.shape[0]
    if not isinstance(least, int):
        least = session.manifest.shapes[spec.name].min[0] if spec.name in session.manifest.shapes else 1
    rows = [*batch, *[batch[-1]] * (least - len(batch))]
    dtypes = {spec.name: np.dtype(spec.dtype) for spec in session.inputs}
    return {
        name: np.concatenate([row.feeds[name] for row in rows]).astype(dtypes[name], copy=False)
        for name in batch[0].feeds
    }


def matched_classes(session: Session, examples: DataSet) -> tuple[np.ndarray, int]:
    """The model's number of each class of the set, and how many classes the model has."""
    own = session.manifest.labels
    if not own:  # an ONNX file's: its classes can only be meant in the set's order
        return np.arange(len(examples.labels)), len(examples.labels)
    return model_classes_from_labels(own, examples.labels, name=examples.name), len(own)


class SessionEvaluator:
    """The part of a `TaskEvaluator` that most tasks share: an example becomes inputs, and a batch is run."""

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
        return self._session.run(stacked(self._session, batch))
