"""The speed of an engine beside that of its reference, and the layers that it loses the time in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from edgekit.arguments import either
from edgekit.measure.layer_times import LayerTime, LayerTimes
from edgekit.measure.relative import Ratio
from edgekit.measure.units import milliseconds
from edgekit.text import shell_quoted

__all__ = ["RelativeSpeed", "SlowerLayer", "layers_that_are_slower"]

MOST_LAYERS = 8
NAMED_LAYERS = 3
CONVERSIONS = ""
"""The name under which conversions between integers and floats are counted; no node has it."""
NEGLIGIBLE = 0.05
"""Layers that lose less than this share of what the slowest of them loses are not to blame."""


class SlowerLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer, or several that one of both engines fuses, that takes longer than in the reference.

    Attributes:
        nodes: names of its nodes in the graph, that with most multiply-accumulates first; empty for conversions
            between integers and floats.
        integers: its convolutions and matrix products that the engine computes on integers.
        ms: its time in the engine, the median of runs with profiling.
        reference_ms: its time in the reference, likewise.
    """

    nodes: tuple[str, ...]
    integers: tuple[str, ...]
    ms: float
    reference_ms: float


class RelativeSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """The speed of an engine beside that of its reference, where both took turns.

    Attributes:
        ratio: median latency of the engine divided by that of the reference; above 1 is slower.
        precision: precision of the engine.
        reference: precision of the reference.
        layers: what takes longer than in the reference, the worst first; empty if the engine is not slower for
            certain, or if the backend does not report the times of layers.
    """

    ratio: Ratio
    precision: str
    reference: str
    layers: tuple[SlowerLayer, ...] = ()

    @property
    def is_slower(self) -> bool:
        """Whether the engine is slower for certain: its whole confidence interval is above 1."""
        return self.ratio.low is not None and self.ratio.low > 1

    def __str__(self) -> str:
        name, reference = self.precision.upper(), self.reference.upper()
        text = f"{name} takes {self.ratio.value:.2f} × the time of {reference} on this machine"
        if not self.layers:
            return text
        text += f". Most of it is lost in {', '.join(map(_described, self.layers[:NAMED_LAYERS]))}"
        names = [name for layer in self.layers[:NAMED_LAYERS] for name in layer.integers]
        if not names:
            return text
        options = " ".join(f"--keep-float {shell_quoted(name)}" for name in names)
        return f"{text}. Try {either(options, f'keep_float={names}')}"


def _described(layer: SlowerLayer) -> str:
    what = layer.nodes[0] if layer.nodes else "conversions between integers and floats"
    return f"{what} ({milliseconds(layer.ms)} ms, not {milliseconds(layer.reference_ms)} ms)"


def layers_that_are_slower(own: LayerTimes, base: LayerTimes, macs: Mapping[str, int]) -> tuple[SlowerLayer, ...]:
    """Returns what takes longer in an engine than in its reference, the worst first.

    Each engine fuses nodes in its own way: layers that share a node, in either engine, are one.

    Args:
        own: the times of the engine's layers, mapped to the nodes of its graph.
        base: those of the reference, whose nodes have the same names.
        macs: multiply-accumulates of each node of the reference's graph by name; the engine's has Q/DQ pairs too.
    """
    groups = _Groups()
    for layer in (*own.layers, *base.layers):
        groups.join(_known(layer, macs))
    found: dict[str, _Times] = {}
    for which, times in enumerate((own, base)):
        for layer in times.layers:
            nodes = _known(layer, macs)
            if not nodes and layer.overhead != "quantize":
                continue  # copies and changes of the memory layout, which no option avoids
            group = found.setdefault(groups.first_of(nodes[0]) if nodes else CONVERSIONS, _Times())
            group.ms[which] += layer.median_ms
            group.nodes.update(dict.fromkeys(nodes))
            if which == 0 and layer.precision == "int8":
                group.integers.update(dict.fromkeys(node for node in nodes if macs[node]))
    slower = [
        SlowerLayer(
            nodes=tuple(sorted(each.nodes, key=lambda node: -macs[node])),
            integers=tuple(each.integers),
            ms=each.ms[0],
            reference_ms=each.ms[1],
        )
        for each in found.values()
        if each.ms[0] > each.ms[1]
    ]
    slower.sort(key=_loss, reverse=True)
    return tuple(layer for layer in slower[:MOST_LAYERS] if _loss(layer) > NEGLIGIBLE * _loss(slower[0]))


@dataclass
class _Times:
    """The times of a group in both engines, its nodes, and its products on integers in the first."""

    ms: list[float] = field(default_factory=lambda: [0.0, 0.0])
    nodes: dict[str, None] = field(default_factory=dict)
    integers: dict[str, None] = field(default_factory=dict)


def _known(layer: LayerTime, macs: Mapping[str, int]) -> list[str]:
    """Returns the nodes of a layer that the reference has too; none of a layer that only converts."""
    return [] if layer.overhead == "quantize" else [node for node in layer.nodes if node in macs]


def _loss(layer: SlowerLayer) -> float:
    return layer.ms - layer.reference_ms


class _Groups:
    """Names that are joined to groups; a group is known by one of its names."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def join(self, names: Iterable[str]) -> None:
        """Puts names, and all that they were joined with, into one group."""
        roots = [self.first_of(name) for name in names]
        for root in roots[1:]:
            self._parents[root] = roots[0]

    def first_of(self, name: str) -> str:
        """Returns the name that stands for the group of ``name``."""
        while self._parents.setdefault(name, name) != name:
            name = self._parents[name]
        return name
