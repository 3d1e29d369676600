"""Lays out a directed acyclic graph in rows and columns, so that edges run down and rarely cross.

The steps are those of Sugiyama, Tagawa and Toda (1981): rows, lanes for edges that pass through rows, an order in each
row, columns. An edge stays in its lane, so it never crosses a box; edges from the same source share a lane.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

__all__ = ["Layout", "Place", "layout", "outer_lanes"]

SWEEPS = 6


class Place(NamedTuple):
    """Position of a node or lane: its row, and the first and last of the columns it is centred in, from zero."""

    row: int
    first: int
    last: int


class Layout(NamedTuple):
    """A graph in rows and columns.

    Attributes:
        places: positions of the nodes, in their order, then of the lanes that edges take through rows.
        segments: edges from row to row, as pairs of indices into ``places``.
        columns: for each column, whether it contains nodes; the others contain only lanes.
    """

    places: tuple[Place, ...]
    segments: tuple[tuple[int, int], ...]
    columns: tuple[bool, ...]


def layout(
    count: int, edges: Collection[tuple[int, int]], *, top: Collection[int] = (), bottom: Collection[int] = ()
) -> Layout:
    """Lays out ``count`` nodes; the result is deterministic.

    Args:
        count: number of nodes, which are 0 to ``count - 1``.
        edges: pairs of nodes, each from a smaller number to a larger one.
        top: nodes of the first row; a single one is centred over all columns.
        bottom: nodes of the last row; a single one is centred below all columns.

    Raises:
        ValueError: an edge does not run from a smaller number to a larger one.
    """
    if any(not 0 <= source < target < count for source, target in edges):
        raise ValueError("edges must run from a smaller number to a larger one")
    rows, segments = _with_lanes(_rows(count, edges, top, bottom), edges)
    order = _ordered(rows, segments, count)
    chains = _chains(order, segments, count)
    columns = _columns(order, chains)
    holds_nodes = [False] * (max(columns.values(), default=-1) + 1)
    for node in range(count):
        holds_nodes[columns[node]] = True
    places = _places(rows, order, columns, [(a, b) for a, b in segments if max(a, b) < count])
    whole = [place for place, holds in enumerate(holds_nodes) if holds]
    for row in ({rows[node] for node in (*top, *bottom)}) if whole else ():
        if len(order[row]) == 1:
            places[order[row][0]] = Place(row, whole[0], whole[-1])
    return Layout(tuple(places), tuple(segments), tuple(holds_nodes))


def _rows(count: int, edges: Collection[tuple[int, int]], top: Collection[int], bottom: Collection[int]) -> list[int]:
    """Assigns the highest possible rows, but the lowest to nodes that depend on no input: they go next to their use."""
    sources, targets = _neighbours(edges)
    rows = [0] * count
    for node in range(count):
        rows[node] = max((rows[source] + 1 for source in sources[node]), default=0)
    last = max((rows[node] for node in range(count) if node not in bottom), default=-1) + 1
    for node in bottom:
        rows[node] = last
    movable: set[int] = set()
    for node in range(count):
        if node not in top and node not in bottom and targets[node] and movable.issuperset(sources[node]):
            movable.add(node)
    for node in sorted(movable, reverse=True):
        rows[node] = min(rows[target] for target in targets[node]) - 1
    return rows


def _neighbours(edges: Iterable[tuple[int, int]]) -> tuple[defaultdict[int, list[int]], defaultdict[int, list[int]]]:
    sources: defaultdict[int, list[int]] = defaultdict(list)
    targets: defaultdict[int, list[int]] = defaultdict(list)
    for source, target in sorted(set(edges)):
        sources[target].append(source)
        targets[source].append(target)
    return sources, targets


def _with_lanes(rows: list[int], edges: Collection[tuple[int, int]]) -> tuple[list[int], list[tuple[int, int]]]:
    """Returns the rows of nodes and lanes, and edges split at each row; edges from the same source share a lane."""
    rows = list(rows)
    segments: list[tuple[int, int]] = []
    _, targets = _neighbours(edges)
    for source in sorted(targets):
        lane = [source]
        for row in range(rows[source] + 1, max(rows[target] for target in targets[source])):
            segments.append((lane[-1], len(rows)))
            lane.append(len(rows))
            rows.append(row)
        segments += [(lane[rows[target] - rows[source] - 1], target) for target in targets[source]]
    return rows, segments


def _ordered(rows: list[int], segments: list[tuple[int, int]], count: int) -> list[list[int]]:
    """Orders each row from left to right: the best of several barycentre sweeps, which has the fewest crossings."""
    order: list[list[int]] = [[] for _ in range(max(rows, default=-1) + 1)]
    for index, row in enumerate(rows):
        order[row].append(index)
    above, below = _neighbours(segments)
    best, fewest = [list(row) for row in order], _crossings(order, below)
    for sweep in range(SWEEPS):
        if not fewest:
            break
        down = sweep % 2 == 0
        for standing in order[1:] if down else order[-2::-1]:
            neighbours = above if down else below
            beside = order[rows[standing[0]] + (-1 if down else 1)]
            position = {index: place for place, index in enumerate(beside)}
            centre = {
                index: sum(position[other] for other in neighbours[index]) / len(neighbours[index])
                if neighbours[index]
                else float(place)
                for place, index in enumerate(standing)
            }
            standing.sort(key=lambda index: (centre[index], index >= count))
        if (crossings := _crossings(order, below)) < fewest:
            best, fewest = [list(row) for row in order], crossings
    return best


def _crossings(order: Sequence[Sequence[int]], below: defaultdict[int, list[int]]) -> int:
    total = 0
    for upper, lower in zip(order, order[1:], strict=False):
        position = {index: place for place, index in enumerate(lower)}
        ends: list[int] = []
        for index in upper:
            new = sorted(position[target] for target in below[index])
            total += sum(end > target for target in new for end in ends)
            ends += new
    return total


def _chains(order: list[list[int]], segments: list[tuple[int, int]], count: int) -> dict[int, int]:
    """Groups what goes into one column: lanes first, so that they are straight, then nodes where possible."""
    above, below = _neighbours(segments)
    chain_of = {index: index for row in order for index in row}
    for upper, lower in zip(order, order[1:], strict=False):
        place = {index: x for row in (upper, lower) for x, index in enumerate(row)}
        straight: list[tuple[int, int]] = []
        candidates = [(source, target) for source in upper for target in below[source]]
        rank = {
            (source, target): (
                2 if (source >= count) != (target >= count) else 1 if source < count else 0,
                _off_middle(source, sorted(above[target], key=place.__getitem__))
                + _off_middle(target, sorted((t for t in below[source] if t < count), key=place.__getitem__)),
                place[source],
                place[target],
            )
            for source, target in candidates
        }
        for source, target in sorted(candidates, key=rank.__getitem__):
            if all((place[s] - place[source]) * (place[t] - place[target]) > 0 for s, t in straight):
                straight.append((source, target))
                chain_of[target] = chain_of[source]
    return chain_of


def _off_middle(one: int, among: list[int]) -> int:
    return abs(among.index(one) - (len(among) - 1) // 2) if one in among else 0


def _columns(order: list[list[int]], chain_of: dict[int, int]) -> dict[int, int]:
    """Assigns the leftmost possible columns, one per chain."""
    left_of: defaultdict[int, set[int]] = defaultdict(set)
    for row in order:
        for left, right in zip(row, row[1:], strict=False):
            left_of[chain_of[right]].add(chain_of[left])
    column: dict[int, int] = {}
    for start in dict.fromkeys(chain_of.values()):
        waiting = [start]
        while waiting:
            chain = waiting[-1]
            missing = [other for other in left_of[chain] if other not in column]
            if missing:
                waiting += missing
            else:
                column[chain] = max((column[other] + 1 for other in left_of[chain]), default=0)
                waiting.pop()
    return {index: column[chain] for index, chain in chain_of.items()}


def _places(
    rows: list[int], order: list[list[int]], columns: dict[int, int], edges: list[tuple[int, int]]
) -> list[Place]:
    """Returns the positions; nodes that are alone in their rows are centred between the nodes above and below."""
    above, below = _neighbours(edges)
    places = [Place(row, columns[index], columns[index]) for index, row in enumerate(rows)]
    run: list[int] = []
    for row in [*order, []]:
        if len(row) == 1:
            run.append(row[0])
            continue
        near = {columns[other] for index in run for other in (index, *above[index], *below[index])}
        for index in run:
            places[index] = Place(rows[index], min(near), max(near))
        run = []
    return places


def outer_lanes(columns: Sequence[bool]) -> tuple[int, int]:
    """Returns the number of lane columns to the left and to the right of all nodes."""
    nodes = [column for column, holds_nodes in enumerate(columns) if holds_nodes]
    return nodes[0], len(columns) - 1 - nodes[-1]
