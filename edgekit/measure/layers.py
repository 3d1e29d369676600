"""Measures the time of each layer of an engine, and how far the layers add up to a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np

from edgekit.engine.layer_timer import LayerTimer, LayerTimings, TimedLayer
from edgekit.measure.layer_groups import grouped, groups_by_module
from edgekit.measure.layer_origins import LayerOrigin, layer_origins, overhead_of
from edgekit.measure.layer_times import LayerTime, LayerTimes, TimelineRun
from edgekit.measure.units import milliseconds
from edgekit.progress import Progress, Warnings
from edgekit.runtime.session import Session
from edgekit.specs import TensorSpec

__all__ = ["Once", "measure_layers"]

MAX_RUNS = 100
"""Enough for medians; ONNX Runtime's profile has about 1 kB for each layer of each run."""
SECONDS = 10.0
MIN_RUNS = 5
TIMELINE_RUNS = 5
AGREEMENT = 0.10
"""Largest difference between the sum of the layers and a run that needs no explanation, as a share of the run."""

Once = Callable[[], tuple[float, ...]]


class _TimedEngine:
    """An `Engine` that runs a timer, and records when each run started and ended."""

    notes: Sequence[str] = ()

    def __init__(self, timer: LayerTimer, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.spans_ns: list[tuple[int, int]] = []
        self._timer = timer

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        start = time.perf_counter_ns()
        outputs = self._timer.run(feeds)
        self.spans_ns.append((start, time.perf_counter_ns()))
        return dict(outputs)

    def close(self) -> None:
        self._timer.close()


def measure_layers(
    session: Session,
    stages_of: Callable[[Session], tuple[Sequence[str], Once]],
    *,
    end_to_end_ms: float,
    inputs: Sequence[TensorSpec] = (),
    graph: Path | None = None,
    runs: int | None = None,
    duration_s: float | None = None,
    warmup: int = 0,
    progress: Progress | None = None,
) -> LayerTimes:
    """Measures the time of each layer in another instance of the engine, which this function loads.

    Args:
        session: the loaded engine; it does not run meanwhile.
        stages_of: returns the names of the stages of a session, and a function that runs them once and returns the
            duration of each in ms; one stage is ``inference``.
        end_to_end_ms: median time of ``inference`` without profiling, to compare with.
        inputs: the engine's inputs with the measured shapes, for the MACs of an engine with dynamic shapes.
        graph: the graph that the engine was built from; without it, or without ``onnx_ir``, layers are not mapped.
        runs: number of runs; 100 at most, which is the default; fewer if they take longer than ``duration_s``.
        duration_s: duration of the measurement; default: 10 s, and five runs or more.
        warmup: runs before the measurement.
        progress: receives the progress.

    Raises:
        RunError: the backend does not report the times of layers.
    """
    with closing(session.layer_timer()) as timer:
        engine = _TimedEngine(timer, session.inputs, session.outputs)
        stages, once = stages_of(Session(engine, session.manifest))
        rows, starts_ns = _repeat(once, runs, duration_s, warmup, progress or Warnings())
        timings = _without(timer.finish(), warmup)
    spans_ns = engine.spans_ns[warmup:]
    profiled_ms = float(np.median([(end - start) / 1e6 for start, end in spans_ns]))
    medians = np.median(np.asarray(timings.times_ms, np.float64).reshape(len(rows), -1), axis=0)
    sized = [spec for spec in inputs if spec.name in session.manifest.shapes]
    origins = layer_origins(graph, sized, timings.layers)
    layers = _layers(timings.layers, medians.tolist(), origins)
    total_ms = sum(layer.median_ms for layer in layers)
    unmapped = sum(not (layer.nodes or layer.overhead or layer.operator == "Copy") for layer in layers)
    notes = [] if origins else ["Layers are not mapped to the model: that needs the bundle's graph and onnx-ir."]
    return LayerTimes(
        layers=layers,
        runs=len(rows),
        sum_ms=total_ms,
        profiled_ms=profiled_ms,
        end_to_end_ms=end_to_end_ms,
        difference=total_ms / end_to_end_ms - 1 if end_to_end_ms else 0.0,
        notes=(*_disagreement(timings, spans_ns, total_ms, profiled_ms, end_to_end_ms), *notes),
        overhead_ms=_overhead(layers),
        mapped=bool(origins),
        unmapped=unmapped if origins else 0,
        by_module=groups_by_module(layers),
        by_operator=grouped(layers, [layer.operator for layer in layers]),
        timeline=tuple(_timeline(timings, stages, rows, starts_ns, spans_ns)),
        starts_measured=bool(timings.starts_ms),
        threads=timings.threads,
    )


def _repeat(
    once: Once, runs: int | None, duration_s: float | None, warmup: int, progress: Progress
) -> tuple[list[tuple[float, ...]], list[int]]:
    for _ in range(warmup):
        once()
    rows: list[tuple[float, ...]] = []
    starts_ns: list[int] = []
    max_runs = min(runs or MAX_RUNS, MAX_RUNS)
    deadline = time.perf_counter() + (duration_s or SECONDS)
    with progress.stage("timing layers", total=max_runs, unit="runs") as advance:
        while len(rows) < max_runs and (len(rows) < MIN_RUNS or time.perf_counter() < deadline):
            starts_ns.append(time.perf_counter_ns())
            rows.append(once())
            advance(1)
    return rows, starts_ns


def _without(timings: LayerTimings, warmup: int) -> LayerTimings:
    return msgspec.structs.replace(timings, times_ms=timings.times_ms[warmup:], starts_ms=timings.starts_ms[warmup:])


def _layers(
    timed: Sequence[TimedLayer], medians_ms: Sequence[float], origins: Sequence[LayerOrigin]
) -> tuple[LayerTime, ...]:
    total_ms = sum(medians_ms)
    slowest: dict[str, int] = {}
    for index, origin in enumerate(origins):
        for node in origin.nodes if not origin.helps else ():
            if node not in slowest or medians_ms[index] > medians_ms[slowest[node]]:
                slowest[node] = index
    layers = []
    for index, (layer, median_ms) in enumerate(zip(timed, medians_ms, strict=True)):
        origin = origins[index] if origins else LayerOrigin()
        own = [node for node in origin.nodes if slowest.get(node) == index]
        layers.append(
            LayerTime(
                name=layer.name,
                operator=layer.operator,
                median_ms=median_ms,
                share=median_ms / total_ms if total_ms else 0.0,
                nodes=origin.nodes,
                module=origin.module,
                overhead=overhead_of(layer, origin, known=bool(origins)),
                precision=layer.precision,
                inputs=layer.inputs,
                outputs=layer.outputs,
                macs=sum(origin.macs.get(node, 0) for node in own) if origins else None,
                weight_bytes=sum(origin.weights.get(node, 0) for node in own) if origins else None,
                activation_bytes=layer.activation_bytes,
                kernel=layer.kernel,
            )
        )
    return tuple(layers)


def _overhead(layers: Sequence[LayerTime]) -> dict[str, float]:
    found: dict[str, float] = {}
    for layer in layers:
        if layer.overhead:
            found[layer.overhead] = found.get(layer.overhead, 0.0) + layer.median_ms
    return found


def _disagreement(
    timings: LayerTimings, spans_ns: Sequence[tuple[int, int]], sum_ms: float, profiled_ms: float, run_ms: float
) -> Iterator[str]:
    """Yields a sentence if the layers do not add up to a run, with the largest of three causes."""
    if not run_ms or abs(sum_ms / run_ms - 1) <= AGREEMENT:
        return
    sums_ms = np.asarray([sum(row) for row in timings.times_ms])
    runs_ms = np.asarray([(end - start) / 1e6 for start, end in spans_ns])
    between_ms = float(np.median(runs_ms - sums_ms))
    causes = {
        f"runs took {milliseconds(profiled_ms)} ms while layers were timed": profiled_ms - run_ms,
        f"{milliseconds(between_ms)} ms of a run pass between the layers": -between_ms,
        "single layers vary from run to run, so that their medians do not add up to the median of a run": sum_ms
        - float(np.median(sums_ms)),
    }
    sign = 1 if sum_ms > run_ms else -1
    cause = max(causes, key=lambda text: sign * causes[text])
    direction = "more" if sign > 0 else "less"
    yield (
        f"The layers add up to {milliseconds(sum_ms)} ms, {100 * abs(sum_ms / run_ms - 1):.0f} % {direction} than the "
        f"{milliseconds(run_ms)} ms of a run: {cause}."
    )


def _timeline(
    timings: LayerTimings,
    stages: Sequence[str],
    rows: Sequence[tuple[float, ...]],
    starts_ns: Sequence[int],
    spans_ns: Sequence[tuple[int, int]],
) -> Iterator[TimelineRun]:
    for index in range(min(len(rows), TIMELINE_RUNS)):
        times_ms = timings.times_ms[index]
        if timings.starts_ms:
            layer_starts_ms = timings.starts_ms[index]
        else:
            layer_starts_ms = tuple(np.cumsum((0.0, *times_ms[:-1])).tolist())
        yield TimelineRun(
            start_ms=(starts_ns[index] - starts_ns[0]) / 1e6,
            stages=dict(zip(stages, rows[index], strict=True)),
            engine_start_ms=(spans_ns[index][0] - starts_ns[index]) / 1e6,
            layers=tuple(zip(layer_starts_ms, times_ms, strict=True)),
        )
