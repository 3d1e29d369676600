"""Compares engines, ONNX files and reports with the first of them, and says the result in sentences."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import edgekit
from edgekit.arguments import argument, in_shell
from edgekit.engine.backend import backend
from edgekit.engine.bundle.manifest import timestamp
from edgekit.errors import DataError, UsageError
from edgekit.evaluation.evaluate import FIGURES
from edgekit.limits import MAX_ROUNDS, MAX_SECONDS
from edgekit.measure.conditions import ConditionWatch, disturbances_from_conditions
from edgekit.measure.confidence import percentile_bounds, runs_needed
from edgekit.measure.contenders import Contender, contenders_from_paths, same_feeds
from edgekit.measure.latency import statistics_ms
from edgekit.measure.layer_times import LayerTimes
from edgekit.measure.machine import this_machine
from edgekit.measure.profile import profile_bundle
from edgekit.measure.relative import (
    CONFIDENCE,
    MIN_ROUNDS,
    ChangedLayer,
    Compared,
    CompareReport,
    Limit,
    Metric,
    Ratio,
    ratio_of_pooled_rounds,
    ratio_of_rounds,
    ratio_of_samples,
    result_of_limit,
)
from edgekit.measure.turn import TurnResponse
from edgekit.measure.turns import measure_by_turns
from edgekit.option import given_flags, given_number, given_path, given_real, given_seed, given_sizes, given_threads
from edgekit.progress import Progress, given_progress
from edgekit.text import json_value

__all__ = ["ROUNDS", "SECONDS", "compare", "sentence"]

ROUNDS = 10
SECONDS = 1.0
LAYERS_SHOWN = 5
LAYER_RUNS = 50
MOST = 0.5
"""A module is named as the place of most of a change only from this share of it on."""
NO_MODULE = "(no module)"
"""Layers that the backend added, such as reorders, and those that could not be mapped."""
PERCENTILES = (90, 95, 99)


def compare(
    paths: Sequence[str | Path],
    *,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    threads: int = 0,
    sizes: Mapping[str, Sequence[int]] | None = None,
    evaluation: Path | None = None,
    limits: Sequence[Limit] = (),
    layers: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> CompareReport:
    """Compares engines with the first of them; see `Contender` for what can be compared.

    Args:
        paths: two or more bundles, ONNX files or reports.
        rounds: rounds of turns; a confidence interval needs five or more.
        seconds: duration of the measured runs of a turn.
        threads: threads of each; 0 leaves it to the backend.
        sizes: shapes of the inputs by name, where they are dynamic.
        evaluation: JSON of `edgekit eval` for the same engines, whose figures are shown beside the latency.
        limits: limits for CI.
        layers: measure the layers of each engine too, after the turns, and find those that changed most; reports of
            `edgekit profile --layers` have them.
        seed: seed of the order, the inputs and the resampling.
        progress: receives the progress.

    Raises:
        UsageError: there is nothing to compare, or the inputs do not fit each other.
        DataError: a JSON file is not what it should be.
        RunError: a turn failed.
    """
    _check_arguments(paths, limits)
    rounds, threads = given_number("rounds", rounds, 1, MAX_ROUNDS), given_threads(threads)
    seconds = given_real("seconds", seconds, 0, MAX_SECONDS, open=True, unit=" s")
    given_flags(layers=layers)
    evaluation = None if evaluation is None else given_path("evaluation", evaluation)
    sizes, seed, progress = given_sizes("sizes", sizes), given_seed(seed), given_progress(progress)
    contenders = contenders_from_paths([given_path("paths", path) for path in paths])
    interleaved = all(each.kind != "report" for each in contenders)
    if not interleaved:
        _require_nothing_to_measure(rounds=rounds, seconds=seconds, threads=threads, sizes=sizes)
    figures = _figures(contenders, evaluation)
    machine = None
    if interleaved:
        watch = ConditionWatch(gpus=any(each.manifest and backend(each.manifest.backend).on_gpu for each in contenders))
        feeds = same_feeds(contenders, sizes, seed)
        turns = measure_by_turns(
            contenders,
            feeds,
            rounds=rounds,
            seconds=seconds,
            threads=threads,
            seed=seed,
            progress=progress,
        )
        machine = this_machine()
        disturbances = disturbances_from_conditions(watch.conditions(), os.cpu_count() or 1)
        if layers:
            contenders = [
                _with_layers(each, own, threads, progress) for each, own in zip(contenders, feeds, strict=True)
            ]
    else:
        turns, disturbances = [[_turn_of_report(each)] for each in contenders], ()
    compared = [_compared(each, own, figures[each.name]) for each, own in zip(contenders, turns, strict=True)]
    compared[1:] = [
        msgspec.structs.replace(other, ratios=_ratios(other, compared[0], interleaved, seed)) for other in compared[1:]
    ]
    changed = _changed_layers(contenders)
    return CompareReport(
        edgekit=edgekit.__version__,
        created=timestamp(),
        interleaved=interleaved,
        rounds=rounds if interleaved else 0,
        threads=threads,
        contenders=tuple(compared),
        sentences=tuple(sentence(compared[0], other, changed) for other in compared[1:]),
        layers=_most_changed(changed),
        limits=tuple(result_of_limit(limit, other) for limit in limits for other in compared[1:]),
        machine=machine,
        disturbances=disturbances,
        notes=_notes(contenders, interleaved, rounds, layers=layers),
    )


def _check_arguments(paths: object, limits: object) -> None:
    if isinstance(paths, (str, Path)) or not isinstance(paths, Sequence):
        raise UsageError(f"paths: expected a list of two or more paths, got {paths!r}")
    if not isinstance(limits, Sequence) or not all(isinstance(limit, Limit) for limit in limits):
        raise UsageError(f"limits: expected a list of limits, as limit_from_text makes them, got {limits!r}")


def _require_nothing_to_measure(*, rounds: int, seconds: float, threads: int, sizes: object) -> None:
    """Refuses options of measurements, which would do nothing where reports are compared."""
    options = {
        argument("rounds", rounds): rounds != ROUNDS,
        argument("seconds", seconds): seconds != SECONDS,
        argument("threads", threads): threads != 0,
        argument("sizes", flag="--input"): bool(sizes),
    }
    if given := next((option for option, is_given in options.items() if is_given), None):
        raise UsageError(
            f"{given}: expected engines or ONNX files alone, which are measured, got a report",
            hint="leave it out, or give the engines in place of their reports",
        )


def _with_layers(
    contender: Contender, feeds: Mapping[str, np.ndarray], threads: int, progress: Progress | None
) -> Contender:
    """Measures the layers of an engine; a foreign file has no graph to map them to."""
    if contender.manifest is None:
        return contender
    sizes = {name: array.shape for name, array in feeds.items() if name in contender.manifest.shapes}
    report = profile_bundle(
        contender.path, runs=LAYER_RUNS, threads=threads, sizes=sizes, layers=True, progress=progress
    )
    return contender._replace(report=report)


def _turn_of_report(contender: Contender) -> TurnResponse:
    assert contender.report is not None  # contenders_from_paths has read one for each
    report = contender.report
    return TurnResponse(
        samples_ms=tuple(report.samples_ms["inference"]),
        peak_bytes=report.memory.peak_bytes,
        engine_bytes=report.memory.engine_bytes,
    )


def _compared(contender: Contender, turns: Sequence[TurnResponse], accuracy: dict[str, float]) -> Compared:
    samples = [value for turn in turns for value in turn.samples_ms]
    grown = [turn.engine_bytes for turn in turns if turn.engine_bytes is not None]
    return Compared(
        name=contender.name,
        path=contender.path,
        kind=contender.kind,
        precision=contender.precision,
        backend=contender.backend,
        backend_version=contender.backend_version,
        size_bytes=contender.size_bytes,
        peak_bytes=int(np.median([turn.peak_bytes for turn in turns])),
        engine_bytes=int(np.median(grown)) if grown else None,
        latency_ms=statistics_ms(samples),
        percentiles=percentile_bounds(samples),
        rounds_ms=tuple(turn.samples_ms for turn in turns),
        accuracy=accuracy,
    )


def _ratios(other: Compared, first: Compared, interleaved: bool, seed: int) -> dict[str, Ratio]:
    own, base = ([np.array(samples) for samples in each.rounds_ms] for each in (other, first))
    fewest = min(sum(map(len, own)), sum(map(len, base)))
    tails = {f"p{each}": _percentile(each) for each in PERCENTILES if fewest >= runs_needed(each)}
    levels: dict[str, Metric] = {"p50": _percentile(50), "mean": functools.partial(np.mean, axis=-1)}
    if interleaved:
        found = {name: ratio_of_rounds(own, base, metric, seed) for name, metric in levels.items()}
        # A turn has too few runs for these.
        found |= {name: ratio_of_pooled_rounds(own, base, metric, seed) for name, metric in tails.items()}
    else:
        metrics = levels | tails
        found = {name: ratio_of_samples(own[0], base[0], metric, seed) for name, metric in metrics.items()}
    for name, value, reference in (
        ("memory", other.engine_bytes, first.engine_bytes),
        ("size", other.size_bytes, first.size_bytes),
    ):
        if value and reference:
            found[name] = Ratio(value=value / reference, low=value / reference, high=value / reference)
    return found


def _percentile(percentile: float) -> Metric:
    return functools.partial(np.percentile, q=percentile, axis=-1)


def _figures(contenders: Sequence[Contender], evaluation: Path | None) -> dict[str, dict[str, float]]:
    """Returns accuracy by contender: the SQNR of the build, and the figures of an evaluation of the same path."""
    found: dict[str, dict[str, float]] = {}
    evaluated = _evaluated(evaluation) if evaluation is not None else {}
    for contender in contenders:
        sqnr = contender.facts.get("sqnr_db")
        own = {f"SQNR of {name} (dB)": float(value) for name, value in sqnr.items()} if isinstance(sqnr, dict) else {}
        found[contender.name] = {**own, **evaluated.get(Path(contender.path).resolve(), {})}
    if evaluation is not None and not any(Path(each.path).resolve() in evaluated for each in contenders):
        raise DataError(
            f"{evaluation}: expected figures of {', '.join(each.path for each in contenders)}, got those of "
            f"{', '.join(map(str, evaluated)) or 'no engine'}",
            hint=f"{in_shell('edgekit eval A B --data SET --json-file FILE')}, with the same folders",
        )
    return found


def _evaluated(file: Path) -> dict[Path, dict[str, float]]:
    try:
        content: Any = json_value(file.read_bytes())
        return {
            Path(engine["engine"]).resolve(): {
                name: float(value) for name, value in engine["figures"].items() if value is not None
            }
            for engine in content["engines"]
            if engine["engine"]
        }
    except OSError as e:
        raise DataError(f"{file}: cannot be read: {e.strerror}") from e
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError, ValueError) as e:
        raise DataError(f"{file}: expected the JSON of `edgekit eval --json-file`, got: {e}") from e


def _changed_layers(contenders: Sequence[Contender]) -> tuple[ChangedLayer, ...]:
    """Returns the time of each module in both reports; of operator types where there are no modules."""
    found: list[ChangedLayer] = []
    for other in contenders[1:]:
        base, own = _group_times(contenders[0], other)
        if base and own:
            found += [
                ChangedLayer(
                    contender=other.name, name=name, before_ms=base.get(name, 0.0), after_ms=own.get(name, 0.0)
                )
                for name in dict.fromkeys((*base, *own))
            ]
    return tuple(found)


def _most_changed(layers: Sequence[ChangedLayer]) -> tuple[ChangedLayer, ...]:
    """Returns those of each contender whose times changed most."""
    most: list[ChangedLayer] = []
    for name in dict.fromkeys(layer.contender for layer in layers):
        own = [layer for layer in layers if layer.contender == name]
        most += sorted(own, key=lambda layer: -abs(layer.after_ms - layer.before_ms))[:LAYERS_SHOWN]
    return tuple(most)


def _group_times(one: Contender, other: Contender) -> list[dict[str, float]]:
    """Returns milliseconds by module of both, or by operator type where one of them has no modules.

    The reports may divide modules to different depths: each layer counts for the longest name of either report.
    """
    times = [each.report.layer_times if each.report else None for each in (one, other)]
    if not all(each is not None and each.by_module for each in times):
        return [{group.name: group.median_ms for group in each.by_operator} if each else {} for each in times]
    names = sorted({group.name for each in times if each for group in each.by_module if group.name}, key=len)
    return [_times_by_name(each, names[::-1]) if each else {} for each in times]


def _times_by_name(times: LayerTimes, names: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for layer in times.layers:
        name = next((name for name in names if f"{layer.module}.".startswith(f"{name}.")), NO_MODULE)
        found[name] = found.get(name, 0.0) + layer.median_ms
    return found


def _notes(contenders: Sequence[Contender], interleaved: bool, rounds: int, *, layers: bool) -> tuple[str, ...]:
    notes = _notes_on_layers(contenders) if layers else []
    if not interleaved:
        notes.append(
            "The runs are those of earlier measurements, which were not interleaved: the intervals do not include how "
            "the machine changed between them."
        )
        machines = {each.report.machine.cpu for each in contenders if each.report is not None}
        if len(machines) > 1:
            notes.append(f"They were measured on different machines: {', '.join(sorted(machines))}.")
    elif rounds < MIN_ROUNDS:
        notes.append(f"There are no confidence intervals with {rounds} rounds: {MIN_ROUNDS} or more are needed.")
    return tuple(notes)


def _notes_on_layers(contenders: Sequence[Contender]) -> list[str]:
    without = [each.name for each in contenders if each.report is None or each.report.layer_times is None]
    notes = [f"The layers of {', '.join(without)} were not measured."] if without else []
    if len(without) < len(contenders) and any(each.kind == "engine" for each in contenders):
        notes.append("Times of layers are those of runs with profiling, which were not interleaved.")
    return notes


def sentence(first: Compared, other: Compared, layers: Sequence[ChangedLayer] = ()) -> str:
    """Returns the result in words, such as "B is 1.31 x as fast as A (95 %: 1.27 to 1.34); mAP is 0.2 % lower."."""
    parts = [_speed(first, other)]
    parts[0] += _where(other, [layer for layer in layers if layer.contender == other.name])
    for name, value in other.accuracy.items():
        if name in first.accuracy:
            parts.append(_figure_change(name, value - first.accuracy[name]))
    return "; ".join(parts) + "."


def _where(other: Compared, layers: Sequence[ChangedLayer]) -> str:
    """Returns the module with most of the change; empty if none has, or if no change of the whole can be told."""
    ratio = other.ratios["p50"]
    if ratio.low is None or ratio.high is None or ratio.low <= 1 <= ratio.high:
        return ""
    sign = 1 if ratio.value > 1 else -1
    changes = {layer.name: sign * (layer.after_ms - layer.before_ms) for layer in layers}
    whole = sum(changes.values())
    name = max(changes, key=changes.__getitem__, default="")
    if whole <= 0 or not name:  # the layers did not change as the whole did
        return ""
    return f", {'mostly' if changes[name] >= MOST * whole else 'most of all'} in {name}"


def _speed(first: Compared, other: Compared) -> str:
    ratio = other.ratios["p50"]
    faster = f"{other.name} is {1 / ratio.value:.2f} x as fast as {first.name}"
    slower = f"{other.name} takes {ratio.value:.2f} x the time of {first.name}"
    if ratio.low is None or ratio.high is None:
        return f"{faster if ratio.value < 1 else slower} (no confidence interval)"
    share = f"{100 * CONFIDENCE:g} %"
    if ratio.high < 1:
        return f"{faster} ({share}: {1 / ratio.high:.2f} to {1 / ratio.low:.2f})"
    if ratio.low > 1:
        return f"{slower} ({share}: {ratio.low:.2f} to {ratio.high:.2f})"
    return (
        f"{other.name} and {first.name} cannot be told apart: {other.name} takes {ratio.value:.2f} x the time "
        f"({share}: {ratio.low:.2f} to {ratio.high:.2f})"
    )


def _figure_change(name: str, change: float) -> str:
    figure = FIGURES.get(name)
    title = figure.title if figure else name
    if not change:
        return f"{title} is the same"
    points = f"{100 * abs(change):.2g} %" if figure and figure.is_share else f"{abs(change):.3g}"
    return f"{title} is {points} {'lower' if change < 0 else 'higher'}"
