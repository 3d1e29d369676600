"""Selects what a drawing of a graph shows: its blocks, the contents of each, and the edges at every level."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from edgekit.errors import BackendUnavailable, GraphError
from edgekit.extras import install_command
from edgekit.measure.inspection import Inspection
from edgekit.report.drawing.layers import Layout, layout
from edgekit.report.drawing.tree import Block, Wiring, block_tree
from edgekit.specs import TensorSpec

__all__ = ["Contents", "Drawing", "Port", "drawing_from_inspection"]

MAX_PORTS = 4
"""If more values enter or leave a block, they are drawn as one port."""
MAX_BOXES = 36
"""By default, blocks are unfolded level by level up to this number of boxes."""


@dataclass(frozen=True)
class Port:
    """A point where a value enters or leaves the graph or a block.

    Attributes:
        kind: ``input`` or ``output`` of the graph, ``in`` or ``out`` of a block.
        label: name of the value, or ``from`` or ``to`` and a block's name; empty if the block has only one such port.
        detail: element type and shape, for ports of the graph.
    """

    kind: Literal["input", "output", "in", "out"]
    label: str
    detail: str = ""


@dataclass(frozen=True)
class Contents:
    """The contents of a block or of the whole graph: boxes and ports, and their layout."""

    nodes: tuple[Block | Port, ...]
    layout: Layout


class Drawing:
    """A graph as a tree of blocks, each of which is drawn folded or with its contents.

    Attributes:
        found: the inspection to draw.
        blocks: the outermost blocks.
    """

    def __init__(self, found: Inspection) -> None:
        self.found = found
        self._wiring = Wiring.of(found)
        self.blocks = block_tree(self._wiring)
        self._around: dict[int, tuple[Block, ...]] = {}
        for block in self.blocks:
            self._note(block, ())

    def _note(self, block: Block, around: tuple[Block, ...]) -> None:
        around = (*around, block)
        for part in block.parts:
            self._note(part, around)
        if not block.parts:
            self._around |= dict.fromkeys(block.rows, around)

    def shape(self, block: Block) -> tuple[int, ...]:
        """Returns the shape of the block's last value that a layer outside reads."""
        row = max(self._wiring.exits(block.rows), default=max(block.rows))
        return self.found.layers[row].output_shape

    def contents(self) -> Contents:
        """Returns the contents of the whole graph, with its inputs and outputs."""
        found, first = self.found, len(self.found.inputs)
        nodes: list[Block | Port] = [Port("input", spec.name, _detail(spec)) for spec in found.inputs]
        edges = {
            (place, first + part)
            for place in range(first)
            for part, block in enumerate(self.blocks)
            if any(-1 - place in self._wiring.sources[row] for row in block.rows)
        }
        edges |= {(first + a, first + b) for a, b in self._edges(self.blocks)}
        nodes += self.blocks
        owner = self._owners(self.blocks)
        for spec in found.outputs:
            made = [row for row, layer in enumerate(found.layers) if spec.name in layer.writes]
            edges |= {(first + owner[row], len(nodes)) for row in made}
            nodes.append(Port("output", spec.name, _detail(spec)))
        return Contents(tuple(nodes), layout(len(nodes), edges))

    def inside(self, block: Block) -> Contents:
        """Returns the contents of a block, and the values that enter and leave it."""
        rows = set(block.rows)
        sources = sorted({s for row in rows for s in self._wiring.sources[row] if s not in rows})
        exits = self._wiring.exits(block.rows)
        ports_in = self._merged("in", [(source, self._origin(source, block)) for source in sources])
        ports_out = self._merged("out", [(row, self._destination(row, block)) for row in exits])
        first, last = len(ports_in), len(ports_in) + len(block.parts)
        owner = self._owners(block.parts)
        edges = {(first + a, first + b) for a, b in self._edges(block.parts)}
        for place, (_, values) in enumerate(ports_in):
            readers = [row for value in values for row in self._wiring.readers[value] if row in rows]
            edges |= {(place, first + owner[row]) for row in readers if row is not None}
        for place, (_, values) in enumerate(ports_out):
            edges |= {(first + owner[value], last + place) for value in values}
        nodes: list[Block | Port] = [port for port, _ in ports_in]
        nodes += block.parts
        nodes += [port for port, _ in ports_out]
        top, bottom = range(first), range(last, len(nodes))
        return Contents(tuple(nodes), layout(len(nodes), edges, top=top, bottom=bottom))

    def unfolded(self, depth: int | None = None) -> set[Block]:
        """Returns the blocks that are drawn with their contents.

        Args:
            depth: number of visible levels; 1 shows the outermost blocks only. None shows as many levels as fit into
                `MAX_BOXES`.
        """
        opened: set[Block] = set()
        level, seen, reached = list(self.blocks), len(self.blocks), 1
        while level and (depth is None or reached < depth):
            groups = [block for block in level if block.parts]
            seen += sum(len(block.parts) - 1 for block in groups)
            if depth is None and seen > MAX_BOXES:
                break
            opened.update(groups)
            level = [part for block in groups for part in block.parts]
            reached += 1
        return opened

    def _edges(self, blocks: Sequence[Block]) -> set[tuple[int, int]]:
        owner = self._owners(blocks)
        return {
            (owner[source], part)
            for row, part in owner.items()
            for source in self._wiring.sources[row]
            if owner.get(source, part) != part
        }

    @staticmethod
    def _owners(blocks: Iterable[Block]) -> dict[int, int]:
        return {row: part for part, block in enumerate(blocks) for row in block.rows}

    def _origin(self, source: int, block: Block) -> str:
        """Returns the label of the block that a value comes from, at the level where it is outside of ``block``."""
        return self.found.inputs[-1 - source].name if source < 0 else self._beside(source, block)

    def _destination(self, row: int, block: Block) -> str:
        rows = set(block.rows)
        outside = [reader for reader in self._wiring.readers[row] if reader not in rows]
        named = [spec.name for spec in self.found.outputs if spec.name in self.found.layers[row].writes]
        return ", ".join(dict.fromkeys([self._beside(r, block) for r in outside if r is not None] + named))

    def _beside(self, row: int, block: Block) -> str:
        inside = self._around[block.rows[0]]
        return next(other.label for other, own in zip(self._around[row], inside, strict=False) if other is not own)

    @staticmethod
    def _merged(kind: Literal["in", "out"], values: list[tuple[int, str]]) -> list[tuple[Port, list[int]]]:
        if len(values) > MAX_PORTS:
            return [(Port(kind, f"{len(values)} values"), [value for value, _ in values])]
        way = "from" if kind == "in" else "to"
        return [(Port(kind, f"{way} {label}" if len(values) > 1 else ""), [value]) for value, label in values]


def drawing_from_inspection(found: Inspection) -> Drawing:
    """Makes the drawing of a model or an engine.

    Raises:
        BackendUnavailable: ``found`` has no graph, because it was made without the package ``onnx``.
        GraphError: there are no layers.
    """
    if found.macs is None:
        raise BackendUnavailable(
            f"drawing the graph of {found.name} needs the package onnx, which is not installed",
            hint=install_command("build", "onnx", "onnx-ir"),
        )
    if not found.layers:
        raise GraphError(f"{found.name} cannot be drawn: expected layers, got none")
    return Drawing(found)


def _detail(spec: TensorSpec) -> str:
    return f"{'×'.join(map(str, spec.shape)) or 'scalar'} {spec.dtype}"
