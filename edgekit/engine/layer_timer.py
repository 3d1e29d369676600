"""The protocol of engines that measure the time of each layer, and what they measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import msgspec
import numpy as np

__all__ = ["LayerTimer", "LayerTimings", "TimedLayer", "TimesLayers"]


class TimedLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer as the backend executes it.

    Attributes:
        name: the backend's name of the layer.
        operator: operator type as executed; ``Copy`` for a copy of inputs or outputs between host and device.
        nodes: names of graph nodes, or of values that nodes compute, that the layer was made from, by the backend's
            own record; others may have been fused into it.
        reads: names of the values that it reads, if the backend has a graph with the names of the original graph.
        writes: names of the values that it computes, likewise.
        readers: names of the layers that read its outputs, if they are reported.
        precision: numpy's name of the element type that it computes in, or ``int8``; empty if it is not reported.
        inputs: shapes of its inputs, without constants.
        outputs: shapes of its outputs.
        activation_bytes: bytes of its inputs, without constants, and of its outputs; None if they are not reported.
        kernel: name of the kernel; empty if it is not reported.
    """

    name: str
    operator: str
    nodes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    precision: str = ""
    inputs: tuple[tuple[int, ...], ...] = ()
    outputs: tuple[tuple[int, ...], ...] = ()
    activation_bytes: int | None = None
    kernel: str = ""


class LayerTimings(msgspec.Struct, frozen=True, kw_only=True):
    """The layers of an engine, in the order of execution, and their times in each run.

    Attributes:
        layers: the layers that were executed.
        times_ms: for each run, the duration of each layer, in ms.
        starts_ms: for each run, when each layer started, in ms after the start of the run; empty if the backend reports
            durations only.
        threads: for each layer, the names of the threads that may have worked on it; empty if they are not reported.
    """

    layers: tuple[TimedLayer, ...]
    times_ms: tuple[tuple[float, ...], ...]
    starts_ms: tuple[tuple[float, ...], ...] = ()
    threads: tuple[tuple[str, ...], ...] = ()


class LayerTimer(Protocol):
    """A second instance of an engine, which measures the time of each layer."""

    def run(self, feeds: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Runs like `Engine.run`, and measures each layer.

        Raises:
            RunError: the run failed.
        """
        ...

    def finish(self) -> LayerTimings:
        """Returns what all runs measured; no run may follow.

        Raises:
            RunError: there was no run, or the backend's record cannot be read.
        """
        ...

    def close(self) -> None:
        """Frees the instance; a second call does nothing."""
        ...


@runtime_checkable
class TimesLayers(Protocol):
    """An engine that can measure the time of each layer.

    Profiling slows runs down, so it takes place in an instance of its own, and `Engine.run` stays as fast as it was.
    """

    def layer_timer(self) -> LayerTimer:
        """Loads another instance of the engine, with profiling; the caller closes it.

        Raises:
            EdgeKitError: it cannot be loaded, for example because memory is short.
        """
        ...
