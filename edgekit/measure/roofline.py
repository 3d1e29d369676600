"""The roofline model: the least time that a machine's peaks allow for each layer, and the share of it that was reached.

A layer of ``m`` multiply-accumulates (MACs) that moves ``b`` bytes takes at least::

    compute_s = m / macs_per_s            the machine's peak in the layer's precision
    memory_s  = b / bytes_per_s           the machine's bandwidth for a working set of that size
    bound_s   = max(compute_s, memory_s)

The layer is bound by what takes longer, because the two can overlap. Its arithmetic intensity is ``2 * m / b``
operations per byte; at the ridge, ``2 * macs_per_s / bytes_per_s``, the bound changes from memory to compute. Layers
run one after another, so the bound of a model is the sum over its layers.

Source: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore
architectures", Communications of the ACM 52(4), 2009. Bandwidth by size of the working set: Ilic, Pratas and Sousa,
"Cache-aware roofline model: upgrading the loft", IEEE Computer Architecture Letters 13(1), 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

__all__ = ["BandwidthLevel", "Bound", "Operator", "Peaks", "Roofline", "RooflinePoint", "roofline_from_layers"]

Bound: TypeAlias = Literal["compute", "memory"]


class Operator(Protocol):
    """A layer, as numbers. A layer may also have ``weight_bytes``, the part of ``bytes`` that are constants."""

    @property
    def name(self) -> str: ...

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates; None or 0 if it has none."""
        ...

    @property
    def bytes(self) -> int | None:
        """Bytes that it reads and writes."""
        ...

    @property
    def precision(self) -> str:
        """Name of the element type that it computes in, as numpy has it."""
        ...


class BandwidthLevel(msgspec.Struct, frozen=True, kw_only=True):
    """The bandwidth for a working set, in bytes read or written per second.

    Attributes:
        working_set_bytes: size of the data that are used again and again.
        bytes_per_s: bytes read and written per second, by all threads together.
    """

    working_set_bytes: int
    bytes_per_s: float


class Peaks(msgspec.Struct, frozen=True, kw_only=True):
    """The peaks of a machine.

    Attributes:
        name: the machine.
        kind: ``measured``: the most that kernels reached here; ``published``: what data sheets state.
        macs_per_s: multiply-accumulates per second by numpy's name of the precision.
        bytes_per_s: bandwidth of the memory.
        cache_bytes: data of at most this size may stay in a cache whose bandwidth is not known: they take no time.
        levels: bandwidth by size of the working set, ascending, if it is known; sizes below the first take no time.
        threads: threads of the CPU that reach them; None for a GPU.
    """

    name: str
    kind: Literal["measured", "published"]
    macs_per_s: dict[str, float]
    bytes_per_s: float
    cache_bytes: int = 0
    levels: tuple[BandwidthLevel, ...] = ()
    threads: int | None = None

    def compute_s(self, macs: int, precision: str) -> float:
        """Returns the least time for multiply-accumulates; a precision without a peak has the highest of all."""
        return macs / (self.macs_per_s.get(precision) or max(self.macs_per_s.values())) if macs else 0.0

    def memory_s(self, length_bytes: int, working_set_bytes: int | None = None) -> float:
        """Returns the least time to move bytes that belong to a working set; default: they are the working set."""
        working_set = length_bytes if working_set_bytes is None else working_set_bytes
        if working_set <= self.cache_bytes:
            return 0.0
        if not self.levels:
            return length_bytes / self.bytes_per_s
        # The next smaller size that was measured, whose bandwidth is at least as high, as it is a bound.
        known = [level.bytes_per_s for level in self.levels if level.working_set_bytes <= working_set]
        return length_bytes / known[-1] if known else 0.0


class RooflinePoint(msgspec.Struct, frozen=True, kw_only=True):
    """A layer in the roofline.

    Attributes:
        name: the layer's name.
        precision: numpy's name of the element type that it computes in.
        macs: multiply-accumulates.
        bytes: bytes that it reads and writes.
        intensity: operations (two per multiply-accumulate) per byte; None without multiply-accumulates or bytes.
        bound: what takes the longer part of ``bound_ms``.
        bound_ms: the least time that the peaks allow.
        measured_ms: its measured time; None if it was not measured.
        reached: share of the peak that was reached, ``bound_ms / measured_ms``; None if it was not measured.
    """

    name: str
    precision: str
    macs: int
    bytes: int
    intensity: float | None
    bound: Bound
    bound_ms: float
    measured_ms: float | None = None
    reached: float | None = None


class Roofline(msgspec.Struct, frozen=True, kw_only=True):
    """The roofline of a model on a machine.

    Attributes:
        peaks: the machine's peaks.
        points: one point for each layer, in the order of execution.
        bound: what bounds the larger part of ``bound_ms``.
        bound_ms: the sum over all layers, which run one after another.
        measured_ms: measured time of the whole; None if it was not measured.
        reached: ``bound_ms / measured_ms``.
    """

    peaks: Peaks
    points: tuple[RooflinePoint, ...]
    bound: Bound
    bound_ms: float
    measured_ms: float | None = None
    reached: float | None = None


def roofline_from_layers(layers: Sequence[Operator], peaks: Peaks, *, measured_ms: float | None = None) -> Roofline:
    """Returns the roofline of layers.

    Weights are used once in a run and again in the next: their working set is that of the whole model. Activations are
    used by the next layer: their working set is that of the layer.

    Args:
        layers: in the order of execution; a layer with ``median_ms`` gets the share that it reached.
        peaks: the machine's peaks.
        measured_ms: time of the whole model; default: the sum of the layers' times, if all have one.
    """
    model_weights = sum(_weight_bytes(layer) for layer in layers)
    points = tuple(_point(layer, peaks, model_weights) for layer in layers)
    times = [point.measured_ms for point in points if point.measured_ms is not None]
    if measured_ms is None and points and len(times) == len(points):
        measured_ms = sum(times)
    bound_ms = sum(point.bound_ms for point in points)
    compute_ms = sum(point.bound_ms for point in points if point.bound == "compute")
    return Roofline(
        peaks=peaks,
        points=points,
        bound="compute" if 2 * compute_ms >= bound_ms else "memory",
        bound_ms=bound_ms,
        measured_ms=measured_ms,
        reached=_reached(bound_ms, measured_ms),
    )


def _point(layer: Operator, peaks: Peaks, model_weights: int) -> RooflinePoint:
    macs, moved, weights = layer.macs or 0, layer.bytes or 0, _weight_bytes(layer)
    compute_s = peaks.compute_s(macs, layer.precision)
    memory_s = peaks.memory_s(weights, model_weights) + peaks.memory_s(moved - weights)
    measured_ms = getattr(layer, "median_ms", None)
    bound_ms = 1000 * max(compute_s, memory_s)
    return RooflinePoint(
        name=layer.name,
        precision=layer.precision,
        macs=macs,
        bytes=moved,
        intensity=2 * macs / moved if macs and moved else None,
        # A layer without arithmetic moves data, even where these may stay in a cache.
        bound="compute" if macs and compute_s >= memory_s else "memory",
        bound_ms=bound_ms,
        measured_ms=measured_ms,
        reached=_reached(bound_ms, measured_ms),
    )


def _weight_bytes(layer: Operator) -> int:
    return getattr(layer, "weight_bytes", 0) or 0


def _reached(bound_ms: float, measured_ms: float | None) -> float | None:
    return bound_ms / measured_ms if measured_ms else None
