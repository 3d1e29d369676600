"""Evaluator of the task ``regress``: MSE, RMSE and R²."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.errors import RunError
from edgekit.evaluation.evaluators.base import Figure, Measure, Ready, SessionEvaluator
from edgekit.evaluation.metrics import regression_figures
from edgekit.runtime.session import Session

__all__ = ["MEASURE"]


class RegressEvaluator(SessionEvaluator):
    """See `TaskEvaluator`."""

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


MEASURE = Measure(
    task="regress",
    make=lambda session, examples, scoring: RegressEvaluator(session),
    figures={
        "mse": Figure("mean squared error", is_share=False, more_is_better=False),
        "rmse": Figure("RMSE", is_share=False, more_is_better=False),
        "r2": Figure("R²", is_share=False),
    },
    measures_tensors=True,
)
