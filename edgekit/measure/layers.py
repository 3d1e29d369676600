"""Measures the time of each layer of an engine, and finds the nodes and modules that each layer came from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec
import numpy as np

from edgekit.engine.layer_timer import LayerTimer, LayerTimings, TimedLayer
from edgekit.errors import DataError
from edgekit.measure.inspection import graph_and_stats, module_of
from edgekit.measure.units import milliseconds
from edgekit.progress import Progress, Warnings
from edgekit.runtime.session import Session
from edgekit.specs import TensorSpec
from edgekit.text import json_value

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.graph.stats import LayerStats

__all__ = [
    "LayerGroup",
    "LayerTime",
    "LayerTimes",
    "Once",
    "TimelineRun",
    "groups_by_module",
    "layer_times_from_report",
    "measure_layers",
    "module_groups",
]

MAX_RUNS = 100
"""Enough for medians; ONNX Runtime's profile has about 1 kB for each layer of each run."""
SECONDS = 10.0
MIN_RUNS = 5
TIMELINE_RUNS = 5
AGREEMENT = 0.10
"""Largest difference between the sum of the layers and a run that needs no explanation, as a share of the run."""
DOMINANT = 0.5
MAX_DEPTH = 4

Overhead = Literal["", "quantize", "reformat", "transpose"]

# Operators as executed, of ONNX Runtime, OpenVINO and TensorRT, in lower case.
QUANTIZERS = frozenset({"quantizelinear", "dequantizelinear", "quantize", "dequantize", "fakequantize"})
REFORMATTERS = frozenset({"reorderinput", "reorderoutput", "reorder", "reformat"})
TRANSPOSERS = frozenset({"transpose", "shuffle"})

Once = Callable[[], tuple[float, ...]]


class LayerTime(msgspec.Struct, frozen=True, kw_only=True):
    """A layer as the backend executes it, and its time.

    Attributes:
        name: the backend's name of the layer.
        operator: operator type as executed; ``Copy`` for a copy of inputs or outputs between host and device.
        median_ms: median time over all runs, in ms.
        share: ``median_ms`` divided by the sum of all layers.
        nodes: names of the graph nodes that it computes, all of a fused layer; empty if the backend added it, or if it
            could not be mapped.
        module: path of the module that it came from; empty if unknown.
        overhead: ``quantize`` if it only converts between integers and floats, or between float types; ``reformat`` or
            ``transpose`` if it only changes the memory layout, and the graph does not; else empty.
        precision: numpy's name of the element type that it computes in, signed or not ``int8``; empty if unknown.
        inputs: shapes of its inputs, without constants.
        outputs: shapes of its outputs.
        macs: multiply-accumulates; None if the graph cannot be read here. A node that several layers compute counts
            for the slowest of them.
        weight_bytes: bytes of the constants that it reads, in the type in which the graph stores them; None likewise.
        activation_bytes: bytes of its inputs and outputs; None if the backend does not report them.
        kernel: name of the kernel; empty if the backend does not report it.
    """

    name: str
    operator: str
    median_ms: float
    share: float
    nodes: tuple[str, ...] = ()
    module: str = ""
    overhead: Overhead = ""
    precision: str = ""
    inputs: tuple[tuple[int, ...], ...] = ()
    outputs: tuple[tuple[int, ...], ...] = ()
    macs: int | None = None
    weight_bytes: int | None = None
    activation_bytes: int | None = None
    kernel: str = ""


class LayerGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Layers of one module, or of one operator type, together.

    Attributes:
        name: path of the module, or operator type as executed; empty for layers that the backend added.
        layers: number of layers.
        median_ms: sum of their medians, in ms.
        share: ``median_ms`` divided by the sum of all layers.
        macs: their multiply-accumulates; None if unknown.
    """

    name: str
    layers: int
    median_ms: float
    share: float
    macs: int | None = None


class TimelineRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run, for a time line. Times are in ms.

    Attributes:
        start_ms: start of the run, after that of the first run in the time line.
        stages: duration of each stage, in the order of execution; ``inference`` contains the layers.
        engine_start_ms: start of the engine's run, after that of this run.
        layers: start of each layer, after the start of the engine's run, and its duration.
    """

    start_ms: float
    stages: dict[str, float]
    engine_start_ms: float
    layers: tuple[tuple[float, float], ...]


class LayerTimes(msgspec.Struct, frozen=True, kw_only=True):
    """The time of each layer, and how far the layers add up to a run.

    Attributes:
        layers: in the order of execution.
        runs: number of measured runs, which took place after those of the report, in an instance with profiling.
        sum_ms: sum of the layers' medians.
        profiled_ms: median time of a run while layers were timed.
        end_to_end_ms: median time of a run without that.
        difference: ``sum_ms / end_to_end_ms - 1``.
        notes: by how much the sum does not agree with a run, and why, if by more than 10 %; what is not known here.
        overhead_ms: time of layers that only convert types or layouts, by kind.
        mapped: the graph was read, so that layers have nodes, modules and MACs.
        unmapped: number of other layers that could not be mapped to nodes.
        by_module: layers by module, slowest first; empty if the names have no modules. A module with over half of the
            time is divided.
        by_operator: layers by operator type, slowest first.
        timeline: some of the runs.
        starts_measured: starts in the time line were measured; else layers are placed one after the other.
        threads: for each layer, identifiers of the threads that may have worked on it; empty if they are not reported.
    """

    layers: tuple[LayerTime, ...]
    runs: int
    sum_ms: float
    profiled_ms: float
    end_to_end_ms: float
    difference: float
    notes: tuple[str, ...] = ()
    overhead_ms: dict[str, float] = {}
    mapped: bool = False
    unmapped: int = 0
    by_module: tuple[LayerGroup, ...] = ()
    by_operator: tuple[LayerGroup, ...] = ()
    timeline: tuple[TimelineRun, ...] = ()
    starts_measured: bool = False
    threads: tuple[tuple[str, ...], ...] = ()


class _Origin(NamedTuple):
    """Where a layer came from.

    Attributes:
        nodes: names of the nodes that it computes.
        operators: their operator types.
        converts: they only change the element type.
        module: path of its module.
        macs: MACs of each node that it computes, by name.
        weights: bytes of constants, likewise.
        helps: the backend names no nodes for it; they are those of the layer that reads it, which counts them.
    """

    nodes: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    converts: bool = False
    module: str = ""
    macs: Mapping[str, int] = {}
    weights: Mapping[str, int] = {}
    helps: bool = False


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
    origins = _origins(graph, sized, timings.layers)
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
        by_operator=_grouped(layers, [layer.operator for layer in layers]),
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
    with progress.stage("Time layers", total=max_runs, unit="runs") as advance:
        while len(rows) < max_runs and (len(rows) < MIN_RUNS or time.perf_counter() < deadline):
            starts_ns.append(time.perf_counter_ns())
            rows.append(once())
            advance(1)
    return rows, starts_ns


def _without(timings: LayerTimings, warmup: int) -> LayerTimings:
    return msgspec.structs.replace(timings, times_ms=timings.times_ms[warmup:], starts_ms=timings.starts_ms[warmup:])


def _layers(
    timed: Sequence[TimedLayer], medians_ms: Sequence[float], origins: Sequence[_Origin]
) -> tuple[LayerTime, ...]:
    total_ms = sum(medians_ms)
    slowest: dict[str, int] = {}
    for index, origin in enumerate(origins):
        for node in origin.nodes if not origin.helps else ():
            if node not in slowest or medians_ms[index] > medians_ms[slowest[node]]:
                slowest[node] = index
    layers = []
    for index, (layer, median_ms) in enumerate(zip(timed, medians_ms, strict=True)):
        origin = origins[index] if origins else _Origin()
        own = [node for node in origin.nodes if slowest.get(node) == index]
        layers.append(
            LayerTime(
                name=layer.name,
                operator=layer.operator,
                median_ms=median_ms,
                share=median_ms / total_ms if total_ms else 0.0,
                nodes=origin.nodes,
                module=origin.module,
                overhead=_overhead_of(layer, origin, known=bool(origins)),
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


def _overhead_of(layer: TimedLayer, origin: _Origin, *, known: bool) -> Overhead:
    operator = layer.operator.lower()
    if origin.converts or (operator in QUANTIZERS and not origin.nodes):
        return "quantize"
    if operator in REFORMATTERS:
        return "reformat"
    # Without the graph, a transposition may be the model's own.
    transposes = operator in TRANSPOSERS and known
    return "transpose" if transposes and not _moves_by_itself(origin.operators) else ""


def _moves_by_itself(operators: Sequence[str]) -> bool:
    """Whether the graph itself changes the order or the shape of the values there."""
    return bool({"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "DepthToSpace"}.intersection(operators))


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


def _origins(graph: Path | None, inputs: Sequence[TensorSpec], layers: Sequence[TimedLayer]) -> list[_Origin]:
    """Maps layers to the graph; empty without the graph or ``onnx_ir``."""
    if graph is None or not graph.is_file():
        return []
    try:
        model, stats = graph_and_stats(graph, {spec.name: [int(size) for size in spec.shape] for spec in inputs})
        # Boards have no onnx_ir; their layers have times and names alone.
        from edgekit.graph.element_types import carries_type
        from edgekit.graph.partition import Executed, nodes_by_layer
    except ImportError:
        return []
    readers = _readers(layers)
    executed = [
        Executed(layer.nodes, layer.reads, layer.writes, after) for layer, after in zip(layers, readers, strict=True)
    ]
    parts = nodes_by_layer(model.graph, executed)
    counted = {layer.name: layer for layer in stats.layers}
    helps = _take_over(readers, parts)
    return [
        _Origin(
            nodes=tuple(node.name or "" for node in part),
            operators=tuple(node.op_type for node in part),
            converts=bool(part) and all(map(carries_type, part)),
            module=_module(part, counted),
            macs={node.name or "": counted[node.name or ""].macs for node in part if node.name in counted},
            weights={node.name or "": counted[node.name or ""].weight_bytes for node in part if node.name in counted},
            helps=helping,
        )
        for part, helping in zip(parts, helps, strict=True)
    ]


def _readers(layers: Sequence[TimedLayer]) -> list[tuple[int, ...]]:
    """Returns the indices of each layer's readers; none for conversions of types and layouts, which have no nodes."""
    places = {layer.name: index for index, layer in enumerate(layers)}
    return [
        ()
        if layer.operator.lower() in QUANTIZERS | REFORMATTERS | TRANSPOSERS
        else tuple(places[name] for name in layer.readers if places.get(name, -1) > index)
        for index, layer in enumerate(layers)
    ]


def _take_over(readers: Sequence[Sequence[int]], parts: list[tuple[ir.Node, ...]]) -> list[bool]:
    """Gives a layer without nodes those of the layer that reads it, in place; returns which layers have such nodes.

    ONNX Runtime divides a MatMul into a Reshape and a Gemm, for example, of which only the Gemm has the node's name.
    """
    helps = [False] * len(parts)
    for index in reversed(range(len(parts))):
        if not parts[index] and readers[index]:
            parts[index] = parts[readers[index][0]]
            helps[index] = bool(parts[index])
    return helps


def _module(part: Sequence[ir.Node], counted: Mapping[str, LayerStats]) -> str:
    """Returns the module of the node with most arithmetic; for Q, DQ and casts, that of the value that they convert."""
    from edgekit.graph.element_types import computed_of  # as above

    nodes = [node for node in part if node.name in counted]
    if not nodes and part and part[0].inputs and part[0].inputs[0] is not None:
        producer = computed_of(part[0].inputs[0]).producer()
        nodes = [producer] if producer is not None and producer.name in counted else []
    if not nodes:
        return ""
    main = max((counted[node.name or ""] for node in nodes), key=lambda layer: (layer.macs, layer.weight_bytes))
    return module_of(main.name, main.module, main.operator)


def layer_times_from_report(file: Path) -> LayerTimes:
    """Reads the times of layers from the JSON of ``edgekit profile --layers``.

    Raises:
        DataError: the file cannot be read, or has no times of layers.
    """
    try:
        content = json_value(file.read_bytes())
        return msgspec.convert(content["layer_times"], LayerTimes)
    except OSError as e:
        raise DataError(f"{file}: cannot be read: {e.strerror}") from e
    except (msgspec.MsgspecError, KeyError, TypeError) as e:
        raise DataError(
            f"{file}: expected the JSON of a report with times of layers, got: {e}",
            hint=f"edgekit profile ENGINE --layers --json-file {file}",
        ) from e


def groups_by_module(layers: Sequence[LayerTime]) -> tuple[LayerGroup, ...]:
    """Groups layers by their modules; see `module_groups`."""
    names = module_groups([layer.module for layer in layers], [layer.share for layer in layers])
    return _grouped(layers, names) if any(names) else ()


def module_groups(modules: Sequence[str], shares: Sequence[float]) -> list[str]:
    """Returns the group of each layer: the first part of its module, and more of it where one has over half the time.

    Args:
        modules: path of the module of each layer; empty if unknown.
        shares: share of the time of each layer.

    Returns:
        Names of groups, all empty if modules do not group the layers.
    """
    paths = [tuple(module.split(".")) if module else () for module in modules]
    names = [path[:1] for path in paths]
    for depth in range(2, MAX_DEPTH + 1):
        sums: dict[tuple[str, ...], float] = {}
        for name, share in zip(names, shares, strict=True):
            sums[name] = sums.get(name, 0.0) + share
        divided = [path[:depth] if sums[name] > DOMINANT else name for path, name in zip(paths, names, strict=True)]
        if not _informative(divided):
            break
        names = divided
    return [".".join(name) for name in names] if _informative(names) else [""] * len(names)


def _informative(names: Sequence[tuple[str, ...]]) -> bool:
    """Whether there are several groups, with three layers in two of them on average."""
    return 1 < len(set(names)) <= len(names) * 2 / 3


def _grouped(layers: Sequence[LayerTime], names: Sequence[str]) -> tuple[LayerGroup, ...]:
    """Sums layers with the same name; slowest first."""
    members: dict[str, list[LayerTime]] = {}
    for layer, name in zip(layers, names, strict=True):
        members.setdefault(name, []).append(layer)
    groups = [
        LayerGroup(
            name=name,
            layers=len(group),
            median_ms=sum(layer.median_ms for layer in group),
            share=sum(layer.share for layer in group),
            macs=None if any(layer.macs is None for layer in group) else sum(layer.macs or 0 for layer in group),
        )
        for name, group in members.items()
    ]
    return tuple(sorted(groups, key=lambda group: -group.median_ms))


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
