"""Evaluator of the task ``translate``: the share of correct tokens and of completely correct texts."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.data.examples import DataSet, Example, feeds_from_example
from edgekit.data.vocabulary import ids_from_text
from edgekit.evaluation.evaluators.base import Figure, Measure, Ready, SessionEvaluator, stacked
from edgekit.evaluation.metrics import sequence_figures
from edgekit.runtime.session import Session
from edgekit.runtime.tasks.translate import SOURCE
from edgekit.specs import UNKNOWN

__all__ = ["MEASURE"]


class TranslateEvaluator(SessionEvaluator):
    """See `TaskEvaluator`."""

    def __init__(self, session: Session, examples: DataSet) -> None:
        super().__init__(session)
        self._vocabulary = session.manifest.labels or tuple(examples.labels)
        self._predicted: list[list[int]] = []
        self._expected: list[list[int | None]] = []

    def ready(self, example: Example) -> Ready:
        source = [spec for spec in self._specs if spec.name == SOURCE]
        return Ready(example, feeds_from_example(example, source, None, self._vocabulary))

    def evaluate(self, batch: Sequence[Ready]) -> None:
        written = self._session.tokens(stacked(self._session, batch)[SOURCE])[: len(batch)]
        self._predicted += written
        for ready in batch:
            ids = ids_from_text(str(ready.example.target), self._vocabulary)
            # Tokens that are not in the vocabulary cannot be predicted: an unknown token is not correct.
            self._expected.append([None if token == UNKNOWN else token for token in ids])

    def figures(self) -> dict[str, float]:
        return sequence_figures(self._predicted, self._expected)


MEASURE = Measure(
    task="translate",
    make=lambda session, examples, scoring: TranslateEvaluator(session, examples),
    figures={
        "token_accuracy": Figure("token accuracy"),
        "sequence_accuracy": Figure("sequence accuracy", counts_examples=True),
    },
)
