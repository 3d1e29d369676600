"""Finds the layers of a graph from which noise comes: compares its values with those of the float graph.

Values are compared by name. A value that the quantized graph stores in integers is read behind them, as the next layer
reads it, so that reading it changes no kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgekit.graph.element_types import carries_type, constant_of, precision_of
from edgekit.quantize.compare import LayerNoise
from edgekit.specs import EXACT_DB

__all__ = ["Values", "first_collapse", "layer_noise", "nodes_on_integers", "noisiest", "observed_values"]

VALUES_AT_ONCE = 64
"""Values that are read in one run: all of them at once would take gigabytes in a large network."""
FEATURE_MAP_RANK = 4
"""Feature maps of this rank may be scaled channel by channel in the quantized graph, see `quantize.passes.equalize`."""
LEAST_ROWS = 48
"""The last axis of tensors with as many rows may be scaled too, see `quantize.passes.smooth_channels`. A gain that is
fitted to so many numbers takes no more than a 48th of the noise away that is none."""

Arrays = Mapping[str, np.ndarray]
Values = Callable[[Sequence[str]], Sequence[Arrays]]
"""Computes values by name, for each input."""


def observed_values(reference: ir.Graph, other: ir.Graph, *, fused: Collection[str] = ()) -> dict[str, str]:
    """Returns the computed float values of ``reference`` that ``other`` has too, and where to read each there.

    Args:
        reference: the float graph.
        other: a graph made from it, with the same names.
        fused: names of nodes on integers whose outputs are read only where they are stored in integers.
    """
    there = {value.name: value for node in other for value in node.outputs if value.name}
    found = {}
    for node in reference:
        for value in node.outputs:
            name = value.name or ""
            if value.dtype != ir.DataType.FLOAT or name not in there or constant_of(value) is not None:
                continue
            read = _as_read(there[name])
            if read != name or node.name not in fused or there[name].is_graph_output():
                found[name] = read
    return found


def _as_read(value: ir.Value) -> str:
    """Returns the name of the value behind Q and DQ, if all that reads ``value`` reads it there."""
    users = {use.node for use in value.uses()}
    if value.is_graph_output() or len(users) != 1 or next(iter(users)).op_type != "QuantizeLinear":
        return value.name or ""
    integers = next(iter(users)).outputs[0]
    floats = [use.node.outputs[0].name for use in integers.uses() if use.node.op_type == "DequantizeLinear"]
    return (floats[0] if floats else value.name) or ""


@dataclass
class _Energies:
    signal: float = 0.0
    noise: float = 0.0
    lost: bool = False

    def decibels(self) -> float:
        if self.lost:
            return -EXACT_DB
        if not self.noise:
            return EXACT_DB
        return min(10 * math.log10(self.signal / self.noise), EXACT_DB) if self.signal else -EXACT_DB


@dataclass
class _Compared:
    """Energies of values by name; ``scaled``: a gain of each channel is no noise."""

    scaled: bool
    energies: dict[str, _Energies] = field(default_factory=dict)

    def add(self, name: str, a: np.ndarray, b: np.ndarray) -> None:
        found = self.energies.setdefault(name, _Energies())
        if a.shape != b.shape:
            found.lost = True
            return
        a, b = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(a)
        found.lost |= not np.isfinite(b[finite]).all()
        a, b = np.where(finite, a, 0.0), np.where(finite & np.isfinite(b), b, 0.0)
        found.signal += float(np.square(a).sum())
        axes = _scaled_axes(a) if self.scaled else ()
        found.noise += min(
            float(np.square(a - each).sum()) for each in (b, *(_without_gain(a, b, axis) for axis in axes))
        )


def _scaled_axes(a: np.ndarray) -> list[int]:
    """Returns the axes that channels which may be scaled can be on."""
    axes = [1] if a.ndim == FEATURE_MAP_RANK else []
    return [*axes, a.ndim - 1] if a.ndim > 1 and a.size >= LEAST_ROWS * a.shape[-1] else axes


def _without_gain(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
    """Divides each channel of ``b`` by the factor that it is ``a``'s by, which a graph with scaled channels undoes."""
    others = tuple(each for each in range(a.ndim) if each != axis)
    own = np.square(a).sum(axis=others, keepdims=True)
    gain = (a * b).sum(axis=others, keepdims=True) / np.where(own, own, 1.0)
    # A channel is only made larger or smaller, never turned around or removed.
    result: np.ndarray = b / np.where(gain > 0, gain, 1.0)
    return result


def layer_noise(
    reference: ir.Graph,
    other: ir.Graph,
    reference_values: Values,
    other_values: Values,
    *,
    integers: Collection[str] = (),
    scaled: bool = False,
    fused: bool = False,
    until_db: float | None = None,
) -> list[LayerNoise]:
    """Compares the values of two graphs, in the order of the first.

    Args:
        reference: the float graph.
        other: a graph made from it, with the same names.
        reference_values: computes values of ``reference``.
        other_values: computes values of ``other``, or of an engine that was built from it.
        integers: names of the nodes that compute on integers, see `nodes_on_integers`.
        fused: ``other_values`` is an engine: a float value inside of an integer kernel, between a product and its
            activation function, is not read, since that would take the kernel apart.
        scaled: the channels of feature maps, and those of tensors with many rows, may be scaled in ``other``.
        until_db: compare no further than some layers behind the first that collapses by this limit, see
            `first_collapse`; None compares all.
    """
    observed = observed_values(reference, other, fused=integers if fused else ())
    compared = _Compared(scaled)
    names = list(observed)
    for start in range(0, len(names), VALUES_AT_ONCE):
        part = names[start : start + VALUES_AT_ONCE]
        read = [observed[name] for name in part]
        for expected, got in zip(reference_values(part), other_values(read), strict=True):
            for name, there in zip(part, read, strict=True):
                compared.add(name, expected[name], got[there])
        if until_db is not None and first_collapse(_layers(reference, integers, compared), until_db) is not None:
            break
    return _layers(reference, integers, compared)


def _layers(reference: ir.Graph, integers: Collection[str], compared: _Compared) -> list[LayerNoise]:
    decibels = {name: energies.decibels() for name, energies in compared.energies.items()}
    return list(_by_node(reference, integers, decibels))


def _by_node(reference: ir.Graph, integers: Collection[str], decibels: Mapping[str, float]) -> Iterator[LayerNoise]:
    # A value that is not observed passes on the noise of its inputs.
    reached: dict[ir.Value, float] = {}
    for node in reference:
        before = min((reached.get(value, EXACT_DB) for value in node.inputs if value is not None), default=EXACT_DB)
        for value in node.outputs:
            reached[value] = decibels.get(value.name or "", before)
        name = (node.outputs[0].name if node.outputs else "") or ""
        if name in decibels:
            own = decibels[name]
            yield LayerNoise(
                node=node.name or name,
                op_type=node.op_type,
                value=name,
                sqnr_db=own,
                lost_db=before - own,
                quantized=node.name in integers,
            )


def nodes_on_integers(graph: ir.Graph) -> frozenset[str]:
    """Returns the names of the nodes that compute on integers, or whose output is stored in them."""
    return frozenset(node.name or "" for node in graph if not carries_type(node) and _on_integers(node))


def _on_integers(node: ir.Node) -> bool:
    users = (use.node for value in node.outputs for use in value.uses())
    return precision_of(node) == "int8" or any(user.op_type == "QuantizeLinear" for user in users)


def first_collapse(layers: Sequence[LayerNoise], limit_db: float) -> LayerNoise | None:
    """Returns the first layer whose output is below the limit while its inputs are not; None if there is none."""
    return next((each for each in layers if each.sqnr_db < limit_db <= each.sqnr_db + each.lost_db), None)


def noisiest(layers: Sequence[LayerNoise], count: int) -> list[LayerNoise]:
    """Returns the quantized layers that add most noise, the worst first."""
    adding = [each for each in layers if each.quantized and each.added > 0]
    return sorted(adding, key=lambda each: -each.added)[:count]
