"""Runs an engine over a data set and computes accuracy metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from edgekit.arguments import argument, either
from edgekit.data.calibration.example_feeds import spread
from edgekit.data.examples import DataSet, Split, check_first, data_set, split_used
from edgekit.errors import DataError, UsageError
from edgekit.evaluation.evaluators.base import ClassFigure, Details, Ready, Scoring, TaskEvaluator, batch_of
from edgekit.evaluation.evaluators.choose import evaluator_from_session, measures
from edgekit.limits import MAX_COUNT
from edgekit.option import given_flags, given_number, given_real, given_threads
from edgekit.progress import Advance, Progress, given_progress
from edgekit.recipe.schema import Task
from edgekit.runtime.session import Session, session_from_bundle

__all__ = ["FIGURES", "SCORE_THRESHOLD", "Evaluation", "evaluate_bundle", "evaluate_session"]

SCORE_THRESHOLD = 0.001
"""Default score threshold: average precision needs the whole curve; Darknet, YOLO and others use this value."""


FIGURES = {name: figure for measure in measures().values() for name, figure in measure.figures.items()}
"""All figures by name."""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Result of an evaluation; `msgspec.json.encode` serializes it, NaN as null.

    Attributes:
        name: name of the model.
        task: task that was evaluated.
        precision: precision of the engine.
        backend: backend of the engine.
        backend_version: version of the backend.
        data: name of the data set.
        split: split of the data set that was read; a note says if it is not the one that was asked for.
        examples: number of examples evaluated.
        skipped: examples that could not be read, each with the reason; they are excluded from the metrics.
        figures: metrics, by the names of `FIGURES`.
        per_class: accuracy or average precision of each class.
        examples_per_s: throughput, including reading and preprocessing.
        score_threshold: for detectors: detections with a lower score are ignored.
        notes: remarks on the engine or the data set.
        details: confusion of classes, precision-recall curves, mistakes.
    """

    name: str
    task: str
    precision: str
    backend: str
    backend_version: str
    data: str
    split: str
    examples: int
    skipped: tuple[str, ...]
    figures: dict[str, float]
    per_class: tuple[ClassFigure, ...]
    examples_per_s: float
    score_threshold: float | None
    notes: tuple[str, ...]
    details: Details = Details()


def evaluate_bundle(
    path: str | Path,
    *,
    data: str | Path | DataSet,
    split: Split = "test",
    limit: int | None = None,
    score_threshold: float = SCORE_THRESHOLD,
    multi_label: bool = True,
    labels: Sequence[str] = (),
    threads: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Measures the accuracy of the engine in ``path`` on a data set.

    Args:
        path: a bundle created by ``edgekit build``.
        data: a data set, or a name or path that `edgekit.data.examples.data_set` accepts.
        split: ``train``, ``val`` or ``test``, if ``data`` is a name or a path; see `edgekit.data.examples.data_set`.
        limit: maximum number of examples, evenly spaced over the data set.
        score_threshold: for detectors: detections with a lower score are ignored.
        multi_label: for detectors: every class of a box counts, as mean average precision wants it; otherwise only the
            best one, as in `Session.detect`.
        labels: names of the engine's classes, in its order; default: those that it was built with.
        threads: threads for the engine; 0 for the backend's default.
        progress: receives progress updates.

    Raises:
        EngineMismatch: the bundle is not for this machine, or was changed.
        UsageError: the data set does not exist, is for another task, or has other classes.
        DataError: no example can be read, or the first one does not match the engine's inputs.
        BackendUnavailable: a detector needs pycocotools, or a generated set its package.
    """
    if limit is not None:
        limit = given_number("limit", limit, 1, MAX_COUNT)
    score_threshold, threads = given_real("score_threshold", score_threshold, 0, 1), given_threads(threads)
    given_flags(multi_label=multi_label)
    given_progress(progress)
    if not isinstance(data, (str, Path)) and not hasattr(data, "task"):
        raise UsageError(f"data: expected a data set, its name or a path, got {data!r}")
    with session_from_bundle(path, threads=threads, labels=labels) as session:
        if isinstance(data, (str, Path)):
            data = data_set(str(data), split=split, task=_task(session))
        return evaluate_session(
            session,
            data,
            split=split,
            limit=limit,
            score_threshold=score_threshold,
            multi_label=multi_label,
            progress=progress,
        )


def evaluate_session(
    session: Session,
    examples: DataSet,
    *,
    split: Split = "test",
    limit: int | None = None,
    score_threshold: float = SCORE_THRESHOLD,
    multi_label: bool = True,
    progress: Progress | None = None,
) -> Evaluation:
    """Measures the accuracy of a loaded engine; see `evaluate_bundle`."""
    score_threshold = given_real("score_threshold", score_threshold, 0, 1)
    given_flags(multi_label=multi_label)
    shown = given_progress(progress)
    evaluator = evaluator_from_session(session, examples, Scoring(score_threshold, multi_label))
    indices = spread(len(examples), limit)
    if not indices:
        raise DataError(f"data set {examples.name}: expected at least one example, got none")
    check_first(examples, indices, evaluator.ready)
    manifest, skipped, used = session.manifest, list[str](), list[int]()
    title = f"evaluating {str(manifest.precision).upper()}"
    start = time.perf_counter()
    with shown.stage(title, total=len(indices), unit="examples") as advance:
        counted = 0
        for batch in _batches(evaluator, examples, indices, batch_of(session), skipped, used, advance):
            evaluator.evaluate(batch)
            counted += len(batch)
            advance(len(batch))
    seconds = time.perf_counter() - start
    if not counted:
        raise DataError(f"data set {examples.name}: all {len(skipped)} examples are broken: {skipped[0]}")
    return Evaluation(
        name=manifest.name,
        task=examples.task,
        precision=str(manifest.precision),
        backend=manifest.backend,
        backend_version=manifest.backend_version,
        data=examples.name,
        split=split_used(examples, split),
        examples=counted,
        skipped=tuple(skipped),
        figures=evaluator.figures(),
        per_class=evaluator.per_class(),
        examples_per_s=counted / seconds,
        score_threshold=score_threshold if measures()[examples.task].has_scores else None,
        notes=(*session.notes, *examples.notes, *_notes_of_classes(session, examples)),
        details=_placed(evaluator.details(), used),
    )


def _placed(details: Details, used: Sequence[int]) -> Details:
    """Returns details whose mistakes have their places in the data set."""
    mistakes = tuple(msgspec.structs.replace(each, index=used[each.index]) for each in details.mistakes)
    return msgspec.structs.replace(details, mistakes=mistakes)


def _notes_of_classes(session: Session, examples: DataSet) -> list[str]:
    own, measured = len(session.manifest.labels), len(examples.labels)
    if session.manifest.task in measures()[examples.task].also:
        return [f"the data set has boxes alone, so only those of the engine for '{session.manifest.task}' are measured"]
    if not measures()[examples.task].class_figure:
        return []
    if not own:
        shown = ", ".join(examples.labels[:8]) + (", ..." if measured > 8 else "")
        return [
            f"the engine has no class names: its classes are taken for those of the data set in its order, {shown}. "
            f"Name them with {argument('labels', like=either('FILE', 'NAMES'))}"
        ]
    if measured >= own:
        return []
    return [f"the data set has {measured} of the model's {own} classes"]


def _batches(
    evaluator: TaskEvaluator,
    examples: DataSet,
    indices: Sequence[int],
    size: int,
    skipped: list[str],
    used: list[int],
    advance: Advance,
) -> Iterator[list[Ready]]:
    """Yields batches of prepared examples; appends broken examples to ``skipped``, indices of others to ``used``."""
    batch: list[Ready] = []
    for index in indices:
        try:
            batch.append(evaluator.ready(examples[index]))
            used.append(index)
        except DataError as e:
            skipped.append(e.message)
            advance(1)
            continue
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _task(session: Session) -> Task | None:
    """What the data set has to be for; None where the engine does not say."""
    measure = measures().get(session.manifest.task)
    return None if measure is None else measure.task
