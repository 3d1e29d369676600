"""The times of an engine's layers, as a report has them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edgekit.arguments import in_shell
from edgekit.errors import DataError
from edgekit.text import json_value, shell_quoted

__all__ = ["LayerGroup", "LayerTime", "LayerTimes", "Overhead", "TimelineRun", "layer_times_from_report"]

Overhead = Literal["", "quantize", "reformat", "transpose"]


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
            hint=in_shell(f"edgekit profile ENGINE --layers --json-file {shell_quoted(str(file))}"),
        ) from e
