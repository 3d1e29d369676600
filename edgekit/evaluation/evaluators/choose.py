"""Chooses the evaluator of an engine: every module of this package that declares a ``MEASURE`` is for one task."""

from __future__ import annotations

import functools

import edgekit.evaluation.evaluators
from edgekit.data.examples import DataSet
from edgekit.errors import UsageError
from edgekit.evaluation.evaluators.base import Measure, Scoring, TaskEvaluator
from edgekit.runtime.session import Session
from edgekit.runtime.tasks.choose import declared_in

__all__ = ["evaluator_from_session", "measures"]


@functools.cache
def measures() -> dict[str, Measure]:
    """Returns the measures of all tasks, by task."""
    return {measure.task: measure for measure in declared_in(edgekit.evaluation.evaluators, "MEASURE")}


def evaluator_from_session(session: Session, examples: DataSet, scoring: Scoring) -> TaskEvaluator:
    """Makes the evaluator of an engine on a data set.

    An engine from an ONNX file or a module, whose task is unknown, is evaluated for the data set's task. Of an engine
    that finds masks or key points, the boxes are evaluated on a data set that has only boxes.

    Raises:
        UsageError: the data set is for another task, or has other classes.
        BackendUnavailable: pycocotools, which detectors need, is not installed.
    """
    own, measure = session.manifest.task, measures().get(examples.task)
    fits = measure is not None and (
        own == measure.task or own in measure.also or (own == "tensor" and measure.measures_tensors)
    )
    if measure is None or not fits:
        raise UsageError(
            f"data set {examples.name}: expected one for the task '{own}' of '{session.manifest.name}', got one for "
            f"'{examples.task}'"
        )
    return measure.make(session, examples, scoring)
