"""The comparison of engines: ratios with confidence intervals, and limits for CI."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from edgekit.arguments import argument
from edgekit.measure.confidence import PercentileBound, runs_needed
from edgekit.measure.latency import Disturbance, Statistics
from edgekit.measure.machine import Machine

__all__ = [
    "ChangedLayer",
    "CompareReport",
    "Compared",
    "Limit",
    "LimitResult",
    "MIN_ROUNDS",
    "Metric",
    "Ratio",
    "limit_from_text",
    "ratio_of_pooled_rounds",
    "ratio_of_rounds",
    "ratio_of_samples",
    "result_of_limit",
]

FORMAT = 1
CONFIDENCE = 0.95
RESAMPLES = 4000
MIN_ROUNDS = 5
METRICS = ("p50", "p90", "p95", "p99", "mean", "memory", "size")

Metric = Callable[[np.ndarray], Any]
"""Reduces the last axis of an array of samples to a figure."""
CHUNK = 2_000_000


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a metric divided by that of the first contender; below 1 is better.

    Attributes:
        value: the ratio.
        low: lower end of the 95 % confidence interval; None if there are too few rounds for one.
        high: upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One contender and its measurement.

    Attributes:
        name: its name in this report.
        path: where it was found.
        kind: ``engine``, ``onnx`` for a file that plain ONNX Runtime ran, ``report`` for an earlier measurement.
        precision: precision of the engine; empty for a foreign file.
        backend: the backend.
        backend_version: version of the vendor's library.
        size_bytes: size of the engine's files; None if unknown.
        peak_bytes: peak memory of its process; the median over the turns.
        engine_bytes: memory that loading and warming up added; the median over the turns; None if unknown.
        latency_ms: statistics of all runs, from input arrays to output arrays.
        percentiles: bounds of percentiles, over all runs.
        rounds_ms: the runs of each round, in milliseconds; one list for an earlier measurement.
        ratios: ratio to the first contender by metric; empty for the first.
        accuracy: what was measured elsewhere: figures of `edgekit eval`, and the SQNR of the build in dB.
    """

    name: str
    path: str
    kind: Literal["engine", "onnx", "report"]
    precision: str
    backend: str
    backend_version: str
    size_bytes: int | None
    peak_bytes: int
    engine_bytes: int | None
    latency_ms: Statistics
    percentiles: tuple[PercentileBound, ...]
    rounds_ms: tuple[tuple[float, ...], ...]
    ratios: dict[str, Ratio] = {}
    accuracy: dict[str, float] = {}


class ChangedLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A module, or an operator type, whose time differs most from that in the first contender.

    Attributes:
        contender: the contender that is compared with the first.
        name: path of the module, or operator type.
        before_ms: its time in the first contender; 0 if it is not there.
        after_ms: its time in the contender.
    """

    contender: str
    name: str
    before_ms: float
    after_ms: float


class LimitResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a limit for one contender.

    Attributes:
        limit: as it was given, such as ``p50>1.05x``.
        contender: the contender that is compared with the first.
        ratio: its ratio to the first; None if the metric was not measured.
        result: ``passed`` if the whole interval is within the limit, ``failed`` if it is beyond, else ``undecided``.
        reason: why it is undecided.
    """

    limit: str
    contender: str
    ratio: Ratio | None
    result: Literal["passed", "failed", "undecided"]
    reason: str = ""


class CompareReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `edgekit compare`, and the JSON that it prints.

    Attributes:
        format: version of this format.
        edgekit: version of EdgeKit.
        created: time of the comparison, ISO 8601, UTC.
        interleaved: the contenders took turns in random order, each turn in a new process; if false, the runs of
            earlier measurements are compared, and the intervals do not include how the machine changed in between.
        rounds: number of rounds; 0 for earlier measurements.
        threads: threads of each contender; 0 leaves it to the backend.
        contenders: in the order in which they were given; ratios are relative to the first.
        sentences: the result of each other contender, in words.
        layers: the modules or operators that changed most, where both reports have layer times.
        limits: results of the limits.
        machine: the machine that compared; None for earlier measurements.
        disturbances: what disturbed the machine meanwhile.
        notes: what limits the comparison.
    """

    format: int = FORMAT
    edgekit: str
    created: str
    interleaved: bool
    rounds: int
    threads: int
    contenders: tuple[Compared, ...]
    sentences: tuple[str, ...]
    layers: tuple[ChangedLayer, ...] = ()
    limits: tuple[LimitResult, ...] = ()
    machine: Machine | None = None
    disturbances: tuple[Disturbance, ...] = ()
    notes: tuple[str, ...] = ()


class Limit(NamedTuple):
    """A limit for CI: the ratio of a metric to that of the first contender must not be greater than ``factor``."""

    text: str
    metric: str
    factor: float


def limit_from_text(text: str) -> Limit:
    """Parses a limit such as ``p50>1.05x``.

    Raises:
        ValueError: it is not one.
    """
    found = re.fullmatch(r"\s*([a-z0-9]+)\s*>\s*([0-9]{1,6}(?:\.[0-9]{1,9})?)\s*x\s*", text)
    if not found or found[1] not in METRICS or not float(found[2]):
        raise ValueError(f"expected METRIC>FACTORx, such as p50>1.05x, with one of {', '.join(METRICS)}, got '{text}'")
    return Limit(text.strip(), found[1], float(found[2]))


def ratio_of_rounds(own: Sequence[np.ndarray], base: Sequence[np.ndarray], metric: Metric, seed: int = 0) -> Ratio:
    """Returns the ratio of a metric, with a bootstrap interval over rounds.

    The ratio is the geometric mean, over rounds, of the metric of one contender's runs divided by that of the other's
    in the same round, so that what slows a whole round cancels. The interval is bootstrap-t (Efron and Tibshirani 1993,
    "An introduction to the bootstrap", chapter 12), whose coverage is closer to the nominal one than that of
    percentiles where there are few rounds.

    Args:
        own: samples of each round, in ms.
        base: the same of the first contender.
        metric: the metric of the samples of a round.
        seed: seed of the resampling.
    """
    logs = np.log([metric(a) / metric(b) for a, b in zip(own, base, strict=True)])
    value, rounds = float(logs.mean()), len(logs)
    if rounds < MIN_ROUNDS:
        return Ratio(value=math.exp(value))
    error = float(logs.std(ddof=1)) / math.sqrt(rounds)
    drawn = logs[np.random.default_rng(seed).integers(0, rounds, (RESAMPLES, rounds))]
    errors = drawn.std(axis=1, ddof=1) / math.sqrt(rounds)
    # A resample of one round repeated has no error of its own.
    usable = errors > 0
    if not error or not usable.any():
        return Ratio(value=math.exp(value), low=math.exp(value), high=math.exp(value))
    t = (drawn.mean(axis=1)[usable] - value) / errors[usable]
    low, high = np.quantile(t, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Ratio(value=math.exp(value), low=math.exp(value - high * error), high=math.exp(value - low * error))


def ratio_of_pooled_rounds(
    own: Sequence[np.ndarray], base: Sequence[np.ndarray], metric: Metric, seed: int = 0
) -> Ratio:
    """Returns the ratio of a metric of all runs together, with a bootstrap interval over rounds, by percentiles.

    Args:
        own: samples of each round, in ms.
        base: the same of the first contender.
        metric: the metric of the samples of all rounds.
        seed: seed of the resampling.
    """
    value = float(metric(np.concatenate(own)) / metric(np.concatenate(base)))
    rounds = len(own)
    if rounds < MIN_ROUNDS:
        return Ratio(value=value)
    drawn = np.random.default_rng(seed).integers(0, rounds, (RESAMPLES // 4, rounds))
    above, below = (np.array([metric(np.concatenate([each[i] for i in row])) for row in drawn]) for each in (own, base))
    ratios = above / below
    low, high = np.quantile(ratios, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Ratio(value=value, low=float(low), high=float(high))


def ratio_of_samples(own: np.ndarray, base: np.ndarray, metric: Metric, seed: int = 0) -> Ratio:
    """Returns the ratio of a metric of two separate measurements, with a moving-block bootstrap interval.

    Blocks of ``n**(1/2)`` runs are drawn instead of runs, because neighbouring runs depend on each other (Künsch 1989,
    "The jackknife and the bootstrap for general stationary observations").

    Args:
        own: samples in the order of the runs, in ms.
        base: the same of the first contender.
        metric: the metric.
        seed: seed of the resampling.
    """
    value = metric(own) / metric(base)
    if min(len(own), len(base)) < 2 * MIN_ROUNDS:
        return Ratio(value=float(value))
    random = np.random.default_rng(seed)
    above, below = (_block_bootstrap(each, metric, random) for each in (own, base))
    low, high = np.quantile(above / below, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Ratio(value=float(value), low=float(low), high=float(high))


def _block_bootstrap(samples: np.ndarray, metric: Metric, random: np.random.Generator) -> np.ndarray:
    n = len(samples)
    length = math.isqrt(n)
    starts = random.integers(0, n - length + 1, (RESAMPLES // 4, math.ceil(n / length)))
    blocks = np.lib.stride_tricks.sliding_window_view(samples, length)
    step = max(1, CHUNK // n)  # all resamples at once may not fit into memory
    parts = (starts[i : i + step] for i in range(0, len(starts), step))
    return np.concatenate([metric(blocks[part].reshape(len(part), -1)[:, :n]) for part in parts])


def result_of_limit(limit: Limit, other: Compared) -> LimitResult:
    """Returns whether a contender keeps a limit; only an interval that is wholly on one side decides."""
    ratio = other.ratios.get(limit.metric)
    result: Literal["passed", "failed", "undecided"] = "undecided"
    reason = ""
    if ratio is None:
        reason = _why_no_ratio(limit.metric)
    elif ratio.low is None or ratio.high is None:
        reason = f"there is no confidence interval: {MIN_ROUNDS} rounds or more are needed"
    elif ratio.low > limit.factor:
        result = "failed"
    elif ratio.high <= limit.factor:
        result = "passed"
    else:
        reason = f"the limit is inside the confidence interval: more {argument('rounds')} are needed"
    return LimitResult(limit=limit.text, contender=other.name, ratio=ratio, result=result, reason=reason)


def _why_no_ratio(metric: str) -> str:
    if metric.startswith("p"):
        return f"{metric} needs {runs_needed(float(metric[1:]))} runs of each: more {argument('rounds')} or "
        f"{argument('seconds')} are needed"
    return f"the {metric} of both was not measured"
