"""Finds repetitions in a sequence."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

__all__ = ["Run", "runs_of_repeats"]

MAX_PERIOD = 64


class Run(NamedTuple):
    """``times`` repetitions of ``period`` elements, starting at ``start``."""

    start: int
    period: int
    times: int


def runs_of_repeats(sequence: Sequence[Hashable]) -> list[Run]:
    """Splits a sequence into runs: ``a b c b c b c d`` is ``a``, three times ``b c``, and ``d``.

    From left to right, it takes the run that covers the most elements, and among equals the shortest period.
    """
    numbers = {element: number for number, element in enumerate(dict.fromkeys(sequence))}
    kinds = [numbers[element] for element in sequence]
    runs: list[Run] = []
    start = 0
    while start < len(kinds):
        periods = range(1, min(MAX_PERIOD, (len(kinds) - start) // 2) + 1)
        found = [Run(start, period, _times(kinds, start, period)) for period in periods]
        best = max((run for run in found if run.times > 1), key=lambda run: run.period * run.times, default=None)
        runs.append(best or Run(start, 1, 1))
        start += runs[-1].period * runs[-1].times
    return runs


def _times(kinds: list[int], start: int, period: int) -> int:
    """Returns how often the piece at ``start`` repeats."""
    end = start + period
    while end < len(kinds) and kinds[end] == kinds[end - period]:
        end += 1
    return (end - start) // period
