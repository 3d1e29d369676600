"""An engine over a data set: example by example, or batch by batch, to figures of accuracy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from edgekit.data.calibration.example_feeds import spread
from edgekit.data.examples import DataSet, Split, check_first, data_set
from edgekit.errors import DataError, UsageError
from edgekit.evaluation.evaluators.base import ClassFigure, Ready, TaskEvaluator, batch_of
from edgekit.evaluation.evaluators.choose import evaluator_from_session, measures
from edgekit.progress import Advance, Progress, Silent
from edgekit.recipe.schema import Task
from edgekit.runtime.session import Session, session_from_bundle

__all__ = ["FIGURES", "SCORE_THRESHOLD", "Evaluation", "evaluate_bundle", "evaluate_session"]

SCORE_THRESHOLD = 0.001
"""Average precision wants the whole curve, so nearly all that is found counts; Darknet, YOLO and others use this."""


FIGURES = {name: figure for measure in measures().values() for name, figure in measure.figures.items()}
"""All figures by name."""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it; `msgspec.json.encode` writes it, NaN as null.

    Attributes:
        name: the model's.
        task: what the engine was measured at.
        precision: of the engine.
        backend: of the engine.
        backend_version: of the engine.
        data: the data set's name.
        split: its part.
        examples: how many count.
        skipped: those that could not be read, each with the reason; they count nowhere.
        figures: by the names of `FIGURES`.
        per_class: accuracy or average precision of each class.
        examples_per_s: reading and preprocessing included.
        score_threshold: of a detector: what is found with less does not count.
        notes: what the user has to know of the engine or the set.
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


def evaluate_bundle(
    path: str | Path,
    *,
    data: str | DataSet,
    split: Split = "test",
    limit: int | None = None,
    score_threshold: float = SCORE_THRESHOLD,
    threads: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Measures how right the engine in the folder ``path`` is on a data set.

    Args:
        path: a bundle that ``edgekit build`` has made.
        data: a data set, or what `edgekit.data.examples.data_set` takes: a name or a path.
        split: ``train`` or ``test``, where ``data`` is a name or a path.
        limit: measure on at most so many examples, spread evenly over the set.
        score_threshold: of a detector: what is found with a lower score does not count.
        threads: threads for the engine; 0 leaves it to the backend.
        progress: told how far it is.

    Raises:
        EngineMismatch: the bundle is not for this machine, or was changed.
        UsageError: there is no such data set, it is for another task, or it has other classes.
        DataError: no example can be read, or the first is not what the engine takes.
        BackendUnavailable: a detector needs pycocotools, or a generated set its package.
    """
    with session_from_bundle(path, threads=threads) as session:
        examples = data_set(data, split=split, task=_task(session)) if isinstance(data, str) else data
        return evaluate_session(
            session, examples, split=split, limit=limit, score_threshold=score_threshold, progress=progress
        )


def evaluate_session(
    session: Session,
    examples: DataSet,
    *,
    split: Split = "test",
    limit: int | None = None,
    score_threshold: float = SCORE_THRESHOLD,
    progress: Progress | None = None,
) -> Evaluation:
    """Measures how right a loaded engine is; see `evaluate_bundle`."""
    if not 0 <= score_threshold <= 1:
        raise UsageError(f"score_threshold: expected 0 to 1, got {score_threshold:g}")
    judge = evaluator_from_session(session, examples, score_threshold=score_threshold)
    places = spread(len(examples), limit)
    if not places:
        raise DataError(f"data set {examples.name}: expected examples to measure on, got none")
    check_first(examples, places, judge.ready)
    manifest, skipped = session.manifest, list[str]()
    title = f"evaluating {str(manifest.precision).upper()}"
    start = time.perf_counter()
    with (progress or Silent()).stage(title, total=len(places), unit="examples") as advance:
        counted = 0
        for batch in _batches(judge, examples, places, batch_of(session), skipped, advance):
            judge.judge(batch)
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
        split=split,
        examples=counted,
        skipped=tuple(skipped),
        figures=judge.figures(),
        per_class=judge.per_class(),
        examples_per_s=counted / seconds,
        score_threshold=score_threshold if measures()[examples.task].has_scores else None,
        notes=(*session.notes, *examples.notes, *_notes_of_classes(session, examples)),
    )


def _notes_of_classes(session: Session, examples: DataSet) -> list[str]:
    own, measured = len(session.manifest.labels), len(examples.labels)
    if not measures()[examples.task].class_figure or measured >= own:
        return []
    return [f"the set has {measured} of the model's {own} classes"]


def _batches(
    judge: TaskEvaluator,
    examples: DataSet,
    places: Sequence[int],
    size: int,
    skipped: list[str],
    advance: Advance,
) -> Iterator[list[Ready]]:
    """Examples made ready, as many as the engine takes at once; broken ones are written down and passed over."""
    batch: list[Ready] = []
    for place in places:
        try:
            batch.append(judge.ready(examples[place]))
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
