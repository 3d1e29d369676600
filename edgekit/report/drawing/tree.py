"""Arranges a graph as a tree of blocks: layers grouped by their modules, and repeated blocks merged into one.

Every block can be drawn as one box: no path leaves it and comes back. The layers of a module that is used in several
places are in several blocks.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.measure.inspection import Inspection, LayerRow, module_path
from edgekit.report.drawing.repeats import Run, runs_of_repeats

__all__ = ["Block", "Wiring", "block_tree"]

Path = tuple[str, ...]

FOLLOWERS = frozenset(
    "BatchNormalization Celu Clip Dropout Elu Erf Flatten Gelu HardSigmoid HardSwish Identity LeakyRelu Mish PRelu "
    "Relu Reshape Selu Sigmoid Softplus Softsign Sqrt Squeeze Swish Tanh ThresholdedRelu Transpose Unsqueeze "
    "Abs Add Cast Ceil Div Exp Floor Log Mul Neg Not Pow Reciprocal Sub".split()
)
"""Operators that are drawn in the box of the layer they follow, if they read nothing else."""
MAX_FOLLOWERS = 8
MAX_FLAT = 30
"""Repetitions among layers without modules are merged if a block has more than this number of them."""


@dataclass(eq=False)
class Block:
    """A box and its contents.

    Attributes:
        label: name of the box within its parent.
        path: full name in the graph.
        rows: indices of its layers in the inspection.
        parts: blocks inside, each after those that it reads; empty if there is nothing to unfold.
        copies: number of equal consecutive blocks that it stands for.
    """

    label: str
    path: str
    rows: tuple[int, ...]
    parts: tuple[Block, ...] = ()
    copies: int = 1


@dataclass(frozen=True)
class Wiring:
    """The connections between layers.

    Attributes:
        layers: layers of the inspection.
        sources: for each layer, the layers that it reads; ``-1`` is the first graph input, ``-2`` the second.
        readers: for each layer, the layers that read it; ``None`` stands for a graph output.
    """

    layers: tuple[LayerRow, ...]
    sources: tuple[tuple[int, ...], ...]
    readers: dict[int, tuple[int | None, ...]]

    @classmethod
    def of(cls, found: Inspection) -> Wiring:
        """Returns the wiring of an inspection."""
        made = {spec.name: -1 - place for place, spec in enumerate(found.inputs)}
        sources: list[tuple[int, ...]] = []
        readers: dict[int, list[int | None]] = {}
        outputs = {spec.name for spec in found.outputs}
        for index, layer in enumerate(found.layers):
            read = tuple(dict.fromkeys(made[name] for name in layer.reads if name in made))
            sources.append(read)
            for source in read:
                readers.setdefault(source, []).append(index)
            made |= dict.fromkeys(layer.writes, index)
            if outputs.intersection(layer.writes):
                readers.setdefault(index, []).append(None)
        return cls(found.layers, tuple(sources), {index: tuple(read) for index, read in readers.items()})

    def exits(self, rows: Sequence[int]) -> tuple[int, ...]:
        """Returns the layers of a block that a layer outside reads."""
        inside = set(rows)
        return tuple(row for row in rows if any(reader not in inside for reader in self.readers.get(row, ())))


def block_tree(wiring: Wiring) -> tuple[Block, ...]:
    """Returns the outermost blocks of a graph, each after those that it reads."""
    paths = _module_paths(wiring)
    rows = list(range(len(wiring.layers)))
    blocks = _arranged(rows, 0, paths, wiring)
    while len(blocks) == 1 and blocks[0].parts:
        blocks = blocks[0].parts
    return blocks


def _module_paths(wiring: Wiring) -> list[Path]:
    """Returns the path of each layer: the modules around it, then its own name."""
    layers = wiring.layers
    paths = [module_path(layer.name, layer.module, layer.operator) for layer in layers]
    for row in reversed(range(len(layers))):
        readers = [paths[reader][:-1] for reader in wiring.readers.get(row, ()) if reader is not None]
        if readers and not wiring.sources[row]:
            # A layer that reads only constants belongs to the module that uses it.
            around = tuple(
                part
                for part, *_ in itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*readers, strict=False))
            )
            paths[row] = (*around, paths[row][-1])
    modules = {path[:length] for path in paths for length in range(1, len(path))}
    return [(*path, layer.operator) if path in modules else path for path, layer in zip(paths, layers, strict=True)]


def _arranged(rows: Sequence[int], depth: int, paths: Sequence[Path], wiring: Wiring) -> tuple[Block, ...]:
    """Arranges ``rows``, which share one module at ``depth``, into blocks."""
    owners: dict[int, int] = {}
    members: list[list[int]] = []
    modules: dict[str, int] = {}
    for row in rows:
        inner = len(paths[row]) > depth + 1
        owner = modules.setdefault(paths[row][depth], len(members)) if inner else len(members)
        if owner == len(members):
            members.append([])
        members[owner].append(row)
        owners[row] = owner
    members = _without_cycles(members, owners, wiring)
    members = _with_followers(members, wiring)
    blocks = [_block(part, depth, paths, wiring) for part in _in_order(members, wiring)]
    return _folded(blocks, paths, wiring)


def _block(rows: list[int], depth: int, paths: Sequence[Path], wiring: Wiring) -> Block:
    module = paths[rows[0]][: depth + 1]
    if len(rows) == 1 or any(paths[row][: depth + 1] != module for row in rows):
        return Block(_label(module), ".".join(module), tuple(rows))
    parts = _arranged(rows, depth + 1, paths, wiring)
    if len(parts) == 1:
        # A module with one part is drawn as that part, with the module's name.
        return Block(_label(module), ".".join(module), tuple(rows), parts[0].parts, parts[0].copies)
    return Block(_label(module), ".".join(module), tuple(rows), parts)


def _label(path: Path) -> str:
    """Returns the last part of a path that is not a number, and the parts after it."""
    start = next((i for i in range(len(path) - 1, -1, -1) if not path[i].isdigit()), 0)
    return ".".join(path[start:])


def _without_cycles(members: list[list[int]], owners: dict[int, int], wiring: Wiring) -> list[list[int]]:
    """Splits parts that read each other in a cycle into the pieces in which they run."""
    edges: dict[int, set[int]] = {part: set() for part in range(len(members))}
    for row, owner in owners.items():
        edges[owner].update(owners[source] for source in wiring.sources[row] if source in owners)
    result: list[list[int]] = []
    for cycle in _components(edges):
        if len(cycle) == 1:
            result.append(members[cycle[0]])
            continue
        last = -1
        for row in sorted(row for part in cycle for row in members[part]):
            if owners[row] != last:
                result.append([])
                last = owners[row]
            result[-1].append(row)
    return result


def _components(edges: dict[int, set[int]]) -> list[list[int]]:
    """Returns the strongly connected components (Tarjan 1972), without recursion."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found: list[list[int]] = []
    for root in edges:
        work = [(root, iter(sorted(edges[root])))] if root not in index else []
        while work:
            node, rest = work[-1]
            if node not in index:
                index[node] = low[node] = len(index)
                stack.append(node)
                on_stack.add(node)
            for other in rest:
                if other not in index:
                    work.append((other, iter(sorted(edges[other]))))
                    break
                if other in on_stack:
                    low[node] = min(low[node], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    place = stack.index(node)
                    found.append(stack[place:])
                    on_stack.difference_update(stack[place:])
                    del stack[place:]
    return found


def _with_followers(members: list[list[int]], wiring: Wiring) -> list[list[int]]:
    """Adds activation functions and similar layers to the part they follow, if nothing else reads the value between."""
    single = {part[0] for part in members if len(part) == 1}
    taken: set[int] = set()
    result: list[list[int]] = []
    for part in sorted(members, key=min):
        if part[0] in taken:
            continue
        if len(_followers(part[:1], set(part), wiring)) == len(part):
            part = _followers(part, single - taken, wiring)
            taken.update(part)
        result.append(part)
    return result


def _followers(first: list[int], free: set[int], wiring: Wiring) -> list[int]:
    """Returns ``first`` with the layers of ``free`` that follow it."""
    inside, kept = list(first), list(first)
    while len(inside) <= MAX_FOLLOWERS:
        following = [
            reader
            for row in inside
            for reader in wiring.readers.get(row, ())
            if reader is not None
            and reader in free
            and reader not in inside
            and wiring.layers[reader].operator in FOLLOWERS
            and set(wiring.sources[reader]) <= set(inside)
        ]
        if not following:
            break
        inside.append(min(following))
        if wiring.exits(inside) in ((), (inside[-1],)):
            kept = list(inside)
    return kept


def _in_order(members: list[list[int]], wiring: Wiring) -> list[list[int]]:
    """Sorts parts topologically; among several candidates, the first in the graph is next."""
    owners = {row: part for part, rows in enumerate(members) for row in rows}
    waits = [
        {owners[s] for row in rows for s in wiring.sources[row] if s in owners} - {part}
        for part, rows in enumerate(members)
    ]
    result: list[list[int]] = []
    left = sorted(range(len(members)), key=lambda part: members[part][0])
    done: set[int] = set()
    while left:
        part = next(part for part in left if waits[part] <= done)
        left.remove(part)
        done.add(part)
        result.append(members[part])
    return result


def _folded(blocks: list[Block], paths: Sequence[Path], wiring: Wiring) -> tuple[Block, ...]:
    """Merges runs of equal blocks into one."""
    kinds = [_kind(block, wiring) for block in blocks]
    folded: list[Block] = []
    for run in runs_of_repeats(kinds):
        members = blocks[run.start : run.start + run.period * run.times]
        if run.times == 1 or not _worth(members, run, len(blocks)) or not _in_series(members, run, wiring):
            folded += members
        else:
            copies = [_piece(members[i : i + run.period]) for i in range(0, len(members), run.period)]
            folded.append(_repeated(copies))
    return tuple(folded)


def _worth(members: list[Block], run: Run, beside: int) -> bool:
    if run.times < 3:
        return False
    return any(block.parts for block in members) or beside > MAX_FLAT


def _in_series(members: list[Block], run: Run, wiring: Wiring) -> bool:
    groups = [
        [row for block in members[i : i + run.period] for row in block.rows] for i in range(0, len(members), run.period)
    ]
    return all(
        any(source in before for row in rows for source in wiring.sources[row])
        for before, rows in zip(map(set, groups), groups[1:], strict=False)
    )


def _piece(blocks: Sequence[Block]) -> Block:
    """Combines blocks that are repeated together, with the name of the largest."""
    if len(blocks) == 1:
        return blocks[0]
    largest = max(blocks, key=lambda block: len(block.rows))
    return Block(largest.label, largest.path, _rows(blocks), tuple(blocks))


def _repeated(blocks: Sequence[Block]) -> Block:
    """Combines equal blocks into one."""
    first, last = blocks[0], blocks[-1]
    # Digits are not part of the common prefix: block1 and block12 give "block1 … 12", not "block1 … 2".
    common = re.sub(r"\d+$", "", os.path.commonprefix([first.label, last.label]))
    label = f"{first.label} … {last.label[len(common) :]}"
    return Block(label, f"{first.path} … {last.path}", _rows(blocks), tuple(blocks), len(blocks))


def _rows(blocks: Sequence[Block]) -> tuple[int, ...]:
    return tuple(row for block in blocks for row in block.rows)


def _kind(block: Block, wiring: Wiring) -> tuple[object, ...]:
    """Returns what repetitions have in common: operators, and height and width of their outputs."""
    layers = [wiring.layers[row] for row in block.rows]
    shape = layers[-1].output_shape
    return (
        bool(block.parts),
        tuple((layer.operator, layer.kernel) for layer in layers),
        shape[2:] if len(shape) == 4 else shape,
    )
