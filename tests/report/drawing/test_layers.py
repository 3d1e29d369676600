from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.report.drawing.layers import Layout, layout, outer_lanes


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, set[tuple[int, int]]]:
    count = draw(st.integers(1, 14))
    pairs = [(a, b) for b in range(count) for a in range(b)]
    return count, draw(st.sets(st.sampled_from(pairs), max_size=30)) if pairs else set()


def reached(found: Layout, source: int, count: int) -> set[int]:
    """Returns the nodes at which the lanes of a node end."""
    ends, waiting = set(), [source]
    while waiting:
        index = waiting.pop()
        for start, end in found.segments:
            if start == index:
                (ends.add if end < count else waiting.append)(end)
    return ends


@settings(deadline=None)
@given(graphs())
def test_every_edge_and_nothing_else_runs_from_its_source_to_its_target(
    graph: tuple[int, set[tuple[int, int]]],
) -> None:
    count, edges = graph
    found = layout(count, edges)
    for node in range(count):
        assert reached(found, node, count) == {target for source, target in edges if source == node}


@settings(deadline=None)
@given(graphs())
def test_segments_run_from_a_row_to_the_next(graph: tuple[int, set[tuple[int, int]]]) -> None:
    found = layout(*graph)
    assert all(found.places[a].row + 1 == found.places[b].row for a, b in found.segments)


@settings(deadline=None)
@given(graphs())
def test_nothing_overlaps_so_no_lane_crosses_a_node(
    graph: tuple[int, set[tuple[int, int]]],
) -> None:
    found = layout(*graph)
    rows: dict[int, list[tuple[int, int]]] = {}
    for place in found.places:
        assert 0 <= place.first <= place.last < len(found.columns)
        rows.setdefault(place.row, []).append((place.first, place.last))
    assert sorted(rows) == list(range(len(rows)))
    for row in rows.values():
        assert all(left[1] < right[0] for left, right in pairwise(sorted(row)))


@settings(deadline=None)
@given(graphs())
def test_columns_without_nodes_are_marked(graph: tuple[int, set[tuple[int, int]]]) -> None:
    count, edges = graph
    found = layout(count, edges)
    for place in found.places[:count]:
        assert found.columns[place.first] and found.columns[place.last]


@settings(deadline=None)
@given(graphs())
def test_layout_is_deterministic(graph: tuple[int, set[tuple[int, int]]]) -> None:
    count, edges = graph
    assert layout(count, edges) == layout(count, sorted(edges, reverse=True))


def test_a_chain_with_a_shortcut_is_one_column_and_a_lane_beside_it() -> None:
    found = layout(4, {(0, 1), (1, 2), (2, 3), (0, 3)})
    assert [place.row for place in found.places[:4]] == [0, 1, 2, 3]
    assert {(place.first, place.last) for place in found.places[:4]} == {(0, 0)}
    assert found.columns == (True, False)
    assert outer_lanes(found.columns) == (0, 1)


def test_a_fork_is_centred_over_its_branches() -> None:
    found = layout(6, {(0, branch) for branch in range(1, 5)} | {(branch, 5) for branch in range(1, 5)})
    assert (found.places[0].first, found.places[0].last) == (0, 3)
    assert found.places[5][1:] == found.places[0][1:]
    assert [place.first for place in found.places[1:5]] == [0, 1, 2, 3]


def test_edges_of_one_source_share_a_lane() -> None:
    found = layout(6, {(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 3), (0, 4), (0, 5)})
    assert found.columns.count(False) == 1


def test_branches_do_not_cross_where_they_need_not() -> None:
    found = layout(5, {(0, 3), (1, 4), (2, 3)})
    column = [place.first for place in found.places]
    assert (column[0] - column[1]) * (column[3] - column[4]) > 0
    assert (column[2] - column[1]) * (column[3] - column[4]) > 0


def test_a_node_without_inputs_is_just_above_its_reader() -> None:
    found = layout(6, {(0, 1), (1, 2), (2, 5), (3, 4), (4, 5)})
    assert [place.row for place in found.places] == [0, 1, 2, 1, 2, 3]


def test_top_and_bottom_stand_in_the_first_and_the_last_row() -> None:
    found = layout(5, {(0, 2), (1, 3), (2, 3), (2, 4)}, top=[0, 1], bottom=[4])
    assert [found.places[node].row for node in (0, 1, 4)] == [0, 0, 3]


def test_error_on_an_edge_that_runs_back() -> None:
    with pytest.raises(ValueError, match="from a smaller number"):
        layout(3, {(2, 1)})
