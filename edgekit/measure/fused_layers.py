"""Merges the layers of a graph as engines do, and counts the least bytes that each merged layer moves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from edgekit.measure.inspection import Inspection, LayerRow
from edgekit.specs import TensorSpec

__all__ = ["FusedLayer", "fused_layers"]

ELEMENTWISE = frozenset(
    "Abs Add BatchNormalization Cast Ceil Clip Div Elu Erf Exp Floor Gelu HardSigmoid HardSwish LeakyRelu Log Max Min "
    "Mish Mul Neg PRelu Pow Reciprocal Relu Round Selu Sigmoid Sign Softplus Softsign Sqrt Sub Swish Tanh "
    "ThresholdedRelu Where".split()
)
"""Operators that engines compute on the outputs of the layer before them, while these are in registers."""

VIEWS = frozenset("Concat Dropout Expand Flatten Identity Reshape Slice Split Squeeze Transpose Unsqueeze".split())
"""Operators that only say where numbers are. An engine may have to copy for some; the least is not to."""


class FusedLayer(msgspec.Struct, frozen=True, kw_only=True):
    """Layers that an engine runs as one, with the least work that they are.

    Attributes:
        name: name of the layer with the most multiply-accumulates, or of the first.
        operator: its operator type.
        precision: numpy's name of the element type that it computes in.
        macs: multiply-accumulates.
        weight_bytes: bytes of the constants, each read once.
        activation_bytes: bytes of the activations that it reads and writes; those between its own layers do not leave
            the registers.
        layers: names of all layers in it.
    """

    name: str
    operator: str
    precision: str
    macs: int
    weight_bytes: int
    activation_bytes: int
    layers: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes that it reads and writes."""
        return self.weight_bytes + self.activation_bytes


def fused_layers(found: Inspection) -> tuple[FusedLayer, ...]:
    """Returns the layers of a graph after fusion, in the order of execution.

    The fusions are those of the engine, where its library reports them. Otherwise they are those that any engine does:
    elementwise operators are merged into the layer that computes their newest input. Operators that only view their
    input (`VIEWS`) cost nothing; a reader of a view reads the bytes of the view. Every constant is read once.

    Args:
        found: the inspection of a graph; figures that it has not count as zero.
    """
    owner = _owners(found)
    members: dict[int, list[LayerRow]] = {}
    for row, own in zip(found.layers, owner, strict=True):
        if own is not None:
            members.setdefault(own, []).append(row)
    sizes = _value_bytes(found)
    needed = _needed_outside(found, owner)
    return tuple(_merged(rows, sizes, needed[leader]) for leader, rows in sorted(members.items()))


def _owners(found: Inspection) -> list[int | None]:
    """Returns for each layer the index of the layer that it is merged into; None for a view of several layers."""
    fusion_of = {name: fusion for fusion, names in enumerate(found.fusions) for name in names}
    first: dict[int, int] = {}
    owner: list[int | None] = []
    producer: dict[str, int | None] = {}
    for index, row in enumerate(found.layers):
        known = [producer[name] for name in row.reads if name in producer]
        if row.name in fusion_of:
            into: int | None = first.setdefault(fusion_of[row.name], index)
        elif row.operator in VIEWS:
            into = known[0] if len(known) == 1 == len(row.reads) else None
        elif row.operator in ELEMENTWISE:
            into = max((own for own in known if own is not None), default=index)
        else:
            into = index
        owner.append(into)
        producer |= dict.fromkeys(row.writes, into)
    return owner


def _value_bytes(found: Inspection) -> dict[str, int]:
    sizes = {name: size for row in found.layers for name, size in zip(row.writes, row.write_bytes, strict=False)}
    smallest = min((np.dtype(_numpy_name(row.precision)).itemsize for row in found.layers if row.macs), default=4)
    return {spec.name: _input_bytes(spec, smallest, found.assumed_sizes) for spec in found.inputs} | sizes


def _numpy_name(precision: str) -> str:
    return precision if precision in np.sctypeDict else "float16"  # bfloat16


def _input_bytes(spec: TensorSpec, smallest: int, assumed: Mapping[str, int]) -> int:
    """Size of an input: an engine may take it in the type that it computes in."""
    sizes = (size if isinstance(size, int) else assumed.get(str(size), 1) for size in spec.shape)
    itemsize = np.dtype(spec.dtype).itemsize
    return math.prod(sizes) * (min(itemsize, smallest) if spec.dtype.startswith("float") else itemsize)


def _needed_outside(found: Inspection, owner: Sequence[int | None]) -> dict[int, set[str]]:
    """Returns for each merged layer the values of it that other layers read or that are outputs of the graph."""
    outputs = {spec.name for spec in found.outputs}
    readers: dict[str, set[int | None]] = {}
    for row, own in zip(found.layers, owner, strict=True):
        for name in row.reads:
            readers.setdefault(name, set()).add(own)
    needed: dict[int, set[str]] = {own: set() for own in owner if own is not None}
    for row, own in zip(found.layers, owner, strict=True):
        if own is not None:
            needed[own] |= {name for name in row.writes if name in outputs or readers.get(name, set()) - {own}}
    return needed


def _merged(rows: Sequence[LayerRow], sizes: Mapping[str, int], needed: Iterable[str]) -> FusedLayer:
    main = max(rows, key=lambda row: row.macs or 0)
    own = {name for row in rows for name in row.writes}
    read = {name for row in rows for name in row.reads} - own
    return FusedLayer(
        name=main.name,
        operator=main.operator,
        precision=main.precision,
        macs=sum(row.macs or 0 for row in rows),
        weight_bytes=sum(row.weight_bytes or 0 for row in rows if row.operator not in VIEWS),
        activation_bytes=sum(sizes.get(name, 0) for name in read) + _written_bytes(rows, sizes, set(needed)),
        layers=tuple(row.name for row in rows),
    )


def _written_bytes(rows: Sequence[LayerRow], sizes: Mapping[str, int], needed: set[str]) -> int:
    """Counts a value and its views once: both halves of a Split are the value that was split."""
    source: dict[str, str] = {}
    for row in rows:
        for name in row.writes:
            source[name] = source.get(row.reads[0], row.reads[0]) if row.operator in VIEWS else name
    written: dict[str, int] = {}
    for name in needed:
        written[source[name]] = written.get(source[name], 0) + sizes.get(name, 0)
    return sum(min(size, sizes.get(name, size)) for name, size in written.items())
