"""Decides how many runs a measurement takes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from edgekit.arguments import argument
from edgekit.errors import UsageError
from edgekit.limits import MAX_CLAIM, MAX_RUNS, MAX_SECONDS, MAX_WARMUP, MIN_CLAIM
from edgekit.measure.confidence import percentile_bound, runs_needed
from edgekit.option import given_number, given_real

__all__ = ["RunLength", "given_run_length"]

DEFAULT_SECONDS = 10.0
MIN_RUNS = 20
DEFAULT_RUNS = 1000
CLAIM_SECONDS = 120.0
CLAIM_GROWTH = 1.15
"""Each look at the runs is at 15 % more of them: a look after each run would stop at the first lucky estimate."""


def given_run_length(
    runs: int | None, duration_s: float | None, warmup: int, claim: float | None
) -> tuple[int | None, float | None, int, float | None]:
    """Checks the arguments of `edgekit.measure.profile.profile_bundle` of these names, and returns them.

    Raises:
        UsageError: one is out of range, or there is both a claim and a number of runs.
    """
    if runs is not None:
        runs = given_number("runs", runs, 1, MAX_RUNS)
    if duration_s is not None:
        duration_s = given_real("duration_s", duration_s, 0, MAX_SECONDS, open=True, unit=" s", flag="--duration")
    warmup = given_number("warmup", warmup, 0, MAX_WARMUP)
    if claim is not None:
        claim = given_real("claim", claim, MIN_CLAIM, MAX_CLAIM)
    if claim is not None and runs is not None:
        raise UsageError(
            f"{argument('claim')} and {argument('runs')}: expected one of them, got both",
            hint=f"limit {argument('claim')} with {argument('duration_s', flag='--duration')}",
        )
    return runs, duration_s, warmup, claim


class RunLength:
    """Decides when there are enough runs.

    Args:
        runs: see `edgekit.measure.profile.profile_bundle`, as for ``duration_s`` and ``claim``.
        inference: index of the stage ``inference``.

    Attributes:
        max: the largest number of runs; None if there is no limit.
    """

    def __init__(self, runs: int | None, duration_s: float | None, claim: float | None, inference: int) -> None:
        self._claim, self._inference = claim, inference
        self._next_look = 0 if claim is None else runs_needed(claim)
        if claim is not None:
            duration_s, self._min, self.max = duration_s or CLAIM_SECONDS, 1, None
        elif runs is None and duration_s is None:
            duration_s, self._min, self.max = DEFAULT_SECONDS, MIN_RUNS, DEFAULT_RUNS
        else:
            self._min, self.max = 1, runs
        self._deadline = float("inf") if duration_s is None else time.perf_counter() + duration_s

    def ends(self, rows: Sequence[tuple[float, ...]]) -> bool:
        """Whether no further run is needed."""
        if len(rows) == self.max or (len(rows) >= self._min and time.perf_counter() >= self._deadline):
            return True
        if self._claim is None or len(rows) < self._next_look:
            return False
        self._next_look = math.ceil(len(rows) * CLAIM_GROWTH)
        # Of the engine, and of all stages together; short stages may depend on each other without an effect on these.
        columns = ([row[self._inference] for row in rows], [sum(row) for row in rows])
        return all(not percentile_bound(column, self._claim).missing_runs for column in columns)
