"""Measures the time of each layer with TensorRT's ``IProfiler``, and describes the layers by its engine inspector."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from edgekit.engine.layer_timer import LayerTimings, TimedLayer
from edgekit.errors import RunError

__all__ = ["ProfiledEngine", "TensorRtLayerTimer", "layer_profiler"]

COPY_IN = TimedLayer(name="inputs to the device", operator="Copy")
COPY_OUT = TimedLayer(name="outputs to the host", operator="Copy")

Report = Callable[[str, float], None]


class ProfiledEngine(Protocol):
    """What the timer needs of `TensorRtEngine`."""

    def profile(self, report: Report) -> None:
        """From now on, passes the name and the time in ms of each layer to ``report``, in the order of execution."""
        ...

    def run_and_time_copies(self, feeds: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float, float]:
        """Runs; returns the outputs, and the times of the copies to the device and to the host in ms."""
        ...

    def describe_layers(self) -> Mapping[str, TimedLayer]:
        """Returns the layers by name, for the shapes of the last run; empty if the engine does not describe them."""
        ...

    def close(self) -> None:
        """Frees it."""
        ...


class TensorRtLayerTimer:
    """A `LayerTimer`. TensorRT reports durations without starts; copies are measured by events.

    Args:
        engine: an engine of its own; the timer closes it.
    """

    def __init__(self, engine: ProfiledEngine) -> None:
        self._engine = engine
        self._reported: list[tuple[str, float]] = []
        self._runs: list[dict[tuple[str, int], float]] = []
        self._copies_ms: list[tuple[float, float]] = []
        engine.profile(lambda name, ms: self._reported.append((name, ms)))

    def run(self, feeds: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """See `LayerTimer.run`."""
        self._reported.clear()
        outputs, copy_in_ms, copy_out_ms = self._engine.run_and_time_copies(feeds)
        self._copies_ms.append((copy_in_ms, copy_out_ms))
        self._runs.append(_by_occurrence(self._reported))
        return outputs

    def finish(self) -> LayerTimings:
        """See `LayerTimer.finish`."""
        keys = list(dict.fromkeys(itertools.chain.from_iterable(self._runs)))
        if not keys:
            raise RunError("TensorRT reported no layers: expected at least one run with its profiler, got none")
        described = self._engine.describe_layers()
        layers = [described.get(name) or TimedLayer(name=name, operator="", nodes=_parts(name)) for name, _ in keys]
        return LayerTimings(
            layers=(COPY_IN, *layers, COPY_OUT),
            times_ms=tuple(
                (copy_in_ms, *(run.get(key, 0.0) for key in keys), copy_out_ms)
                for run, (copy_in_ms, copy_out_ms) in zip(self._runs, self._copies_ms, strict=True)
            ),
        )

    def close(self) -> None:
        """See `LayerTimer.close`."""
        self._engine.close()


def layer_profiler(library: Any, report: Report) -> Any:
    """Returns an ``IProfiler`` that passes each layer's name and time in ms to ``report``."""

    class LayerProfiler(library.IProfiler):  # type: ignore[misc]  # known at run time alone
        def __init__(self) -> None:
            library.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            report(layer_name, ms)

    return LayerProfiler()


def _by_occurrence(reported: Sequence[tuple[str, float]]) -> dict[tuple[str, int], float]:
    """Numbers the layers that have the same name."""
    seen: Counter[str] = Counter()
    row: dict[tuple[str, int], float] = {}
    for name, ms in reported:
        row[name, seen[name]] = ms
        seen[name] += 1
    return row


def _parts(name: str) -> tuple[str, ...]:
    """Returns the nodes in the name of a fused layer: ``conv1 + relu1``, and ``a || b`` for layers side by side."""
    return tuple(name.replace(" || ", " + ").split(" + "))
