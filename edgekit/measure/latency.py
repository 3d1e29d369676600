"""Computes latency statistics from samples, and detects whether the machine was disturbed while they were taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from edgekit.arguments import argument
from edgekit.measure.confidence import runs_needed
from edgekit.measure.steady import steady_state
from edgekit.measure.units import milliseconds

__all__ = ["Disturbance", "Statistics", "disturbances", "statistics_ms"]

MIN_RUNS = 20
SPREAD_LIMIT = 0.15
DRIFT_LIMIT = 0.05
TWO_LEVELS_LIMIT = 0.10
TIMER_FLOOR_MS = 0.05
TAIL_LIMIT = 2.0
MAD_TO_SIGMA = 1.4826
MEDIAN_TO_SIGMA = 1.2533


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of the measured runs; every value in milliseconds.

    A percentile describes these runs only; `PercentileBound` is what can be claimed of the engine. It is None where the
    runs are fewer than a claim with a confidence of 99 % needs: 44 for p90, 90 for p95, 459 for p99.

    Attributes:
        mean: arithmetic mean.
        std: standard deviation of the sample (divided by ``n - 1``), 0 for a single run.
        min: the fastest run.
        p50: the median; half the runs were faster.
        p90: nine runs in ten were faster.
        p95: nineteen runs in twenty were faster.
        p99: ninety-nine runs in a hundred were faster.
        max: the slowest run.
    """

    mean: float
    std: float
    min: float
    p50: float
    p90: float | None
    p95: float | None
    p99: float | None
    max: float


class Disturbance(msgspec.Struct, frozen=True, kw_only=True):
    """One reason why the figures may be inaccurate.

    Attributes:
        kind: from the runs: ``few`` runs, a wide ``spread``, a long ``tail``, a ``drift`` over time, ``two_levels`` of
            speed, a ``warm_up``. From the machine: CPU time of ``others``, the ``load`` average, ``pressure`` on the
            processors, a changing ``clock``, ``heat``, ``throttling``.
        text: what was measured and its usual cause, as a sentence.
    """

    kind: Literal[
        "few",
        "spread",
        "tail",
        "drift",
        "two_levels",
        "warm_up",
        "others",
        "load",
        "pressure",
        "clock",
        "heat",
        "throttling",
    ]
    text: str


def statistics_ms(samples_ms: Sequence[float]) -> Statistics:
    """Computes statistics of durations; percentiles interpolate linearly between neighbouring runs, as numpy does.

    Args:
        samples_ms: one duration per run, in ms.

    Raises:
        ValueError: ``samples_ms`` is empty.
    """
    if not len(samples_ms):
        raise ValueError("statistics: expected at least one run, got none")
    values = np.asarray(samples_ms, dtype=np.float64)
    p90, p95, p99 = (
        float(np.percentile(values, each)) if len(values) >= runs_needed(each) else None for each in (90, 95, 99)
    )
    return Statistics(
        mean=float(values.mean()),
        std=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        min=float(values.min()),
        p50=float(np.median(values)),
        p90=p90,
        p95=p95,
        p99=p99,
        max=float(values.max()),
    )


def disturbances(samples_ms: Sequence[float]) -> tuple[Disturbance, ...]:
    """Detects disturbances of the machine while ``samples_ms`` were taken; returns an empty tuple if there were none.

    There are five rules. Each uses quantiles or medians, so a single slow run in a hundred does not trigger them:

    * spread: the 5th and the 95th percentile differ by more than 15 % of the median;
    * tail: the 99th percentile of the runs is more than twice the median;
    * warm-up: the first runs are on another level than the others (`steady_state`);
    * drift: the medians of the first and the last third of the runs differ by more than 5 %, and by more than four
      standard errors of that difference (robust: 1.4826 times the median absolute deviation);
    * two levels: the runs split into two groups, each with a tenth of the runs or more, that explain over 85 % of the
      variance (Otsu 1979; a normal distribution gives 64 %, a uniform one 75 %) and differ by 10 % or more.

    Differences under 0.05 ms are below the resolution of timer and scheduler and trigger no rule. Fewer than 20 runs
    are too few for the rules; the result then is one disturbance of kind ``few``.

    Args:
        samples_ms: one duration per run, in ms, in the order of the runs.
    """
    values = np.asarray(samples_ms, dtype=np.float64)
    if len(values) < MIN_RUNS:
        text = f"Only {len(values)} runs were measured; {MIN_RUNS} or more are needed to judge their spread."
        return (Disturbance(kind="few", text=text),)
    found = (_spread(values), _tail(values), _warm_up(values) or _drift(values), _two_levels(values))
    return tuple(disturbance for disturbance in found if disturbance)


def _spread(values: np.ndarray) -> Disturbance | None:
    p5, p50, p95 = (float(value) for value in np.percentile(values, (5, 50, 95)))
    if p95 - p5 <= max(SPREAD_LIMIT * p50, TIMER_FLOOR_MS):
        return None
    return Disturbance(
        kind="spread",
        text=f"90 % of the runs took between {milliseconds(p5)} and {milliseconds(p95)} ms, a spread of "
        f"{100 * (p95 - p5) / p50:.0f} % of the median: another process may have used the machine.",
    )


def _tail(values: np.ndarray) -> Disturbance | None:
    p50, p99 = (float(value) for value in np.percentile(values, (50, 99)))
    if p99 - p50 <= max((TAIL_LIMIT - 1) * p50, TIMER_FLOOR_MS):
        return None
    return Disturbance(
        kind="tail",
        text=f"The slowest 1 % of the runs took {p99 / p50:.3g} times the median or longer: the system ran something "
        "else on this processor in between.",
    )


def _warm_up(values: np.ndarray) -> Disturbance | None:
    found = steady_state(values.tolist())
    if not found.first_run or found.before_ms is None or found.after_ms is None:
        return None
    if abs(found.before_ms - found.after_ms) <= TIMER_FLOOR_MS:
        return None
    share = 100 * abs(found.before_ms - found.after_ms) / found.after_ms
    slower = found.before_ms > found.after_ms
    cause = (
        f"they are a warm-up; use a longer {argument('warmup')}" if slower else "the clock frequency fell afterwards"
    )
    return Disturbance(
        kind="warm_up",
        text=f"The first {found.first_run} runs were {share:.0f} % {'slower' if slower else 'faster'} than the others: "
        f"{cause}.",
    )


def _drift(values: np.ndarray) -> Disturbance | None:
    third = len(values) // 3
    first, last = values[:third], values[-third:]
    change = float(np.median(last) - np.median(first))
    sigma = MAD_TO_SIGMA * max(_median_deviation(first), _median_deviation(last))
    standard_error = MEDIAN_TO_SIGMA * sigma * float(np.sqrt(2 / third))
    enough = max(DRIFT_LIMIT * float(np.median(first)), 4 * standard_error, TIMER_FLOOR_MS)
    if abs(change) <= enough:
        return None
    share = 100 * abs(change) / float(np.median(first))
    direction, cause = (
        ("slower", "heat or a power limit may have lowered the clock frequency")
        if change > 0
        else ("faster", f"the clock or the caches were still warming up; use a longer {argument('warmup')}")
    )
    return Disturbance(
        kind="drift", text=f"The last third of the runs was {share:.0f} % {direction} than the first: {cause}."
    )


def _two_levels(values: np.ndarray) -> Disturbance | None:
    # Without the slowest few: in a sum of squares, one outlier can outweigh two real levels.
    ordered = np.sort(values)[: max(MIN_RUNS - 1, int(len(values) * 0.975))]
    n = len(ordered)
    variance = float(ordered.var())
    if variance == 0:
        return None
    sizes = np.arange(1, n)
    sums = np.cumsum(ordered)
    low = sums[:-1] / sizes
    high = (sums[-1] - sums[:-1]) / (n - sizes)
    explained = sizes * (n - sizes) * (high - low) ** 2 / (n * n * variance)
    smallest = max(1, n // 10)
    explained[: smallest - 1] = 0
    explained[n - smallest :] = 0
    split = int(explained.argmax())
    gap = float(high[split] - low[split])
    if explained[split] < 0.85 or gap < max(TWO_LEVELS_LIMIT * low[split], TIMER_FLOOR_MS):
        return None
    return Disturbance(
        kind="two_levels",
        text=f"The runs form two groups, around {milliseconds(low[split])} ms and {milliseconds(high[split])} ms: "
        "the clock switched between two frequencies, or threads moved between cores.",
    )


def _median_deviation(values: np.ndarray) -> float:
    return float(np.median(np.abs(values - np.median(values))))
