"""Inputs that select rows have as many values as there are rows; the right numbers are those of the tables below."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.graph.index_bounds import index_bounds
from edgekit.graph.passes import InferShapes

TABLE = np.zeros((7, 4), np.float32)
NARROW = np.zeros((3, 5), np.float32)


def bounds(graph_of, text, **weights):
    graph = graph_of(text, **weights)
    InferShapes()(graph)
    return index_bounds(graph)


def test_ids_are_below_the_rows_of_their_table(graph_of):
    text = "g (int64[1, 6] ids) => (float[1, 6, 4] y) { y = Gather(table, ids) }"
    assert bounds(graph_of, text, table=TABLE) == {"ids": 7}


@pytest.mark.parametrize(
    "path",
    [
        "i = Cast<to = 6>(ids)",
        "i = Unsqueeze(ids, zero)",
        "i = Slice(ids, zero, one, one)",
        "i = Concat<axis = 1>(ids, ids)",
        "c = Cast<to = 6>(ids) t = Transpose<perm = [1, 0]>(c) i = Squeeze(t, zero)",
    ],
)
def test_ids_are_followed_through_what_moves_them(graph_of, path):
    text = f"g (int64[6, 1] ids) => (float[A, B] z) {{ {path} y = Gather(table, i) z = Flatten(y) }}"
    numbers = {"zero": np.array([0]), "one": np.array([1])}
    used = {name: array for name, array in numbers.items() if name in path}
    assert bounds(graph_of, text, table=TABLE, **used) == {"ids": 7}


def test_the_smallest_table_counts(graph_of):
    text = "g (int64[6] ids) => (float[6, 4] y, float[6, 5] z) { y = Gather(wide, ids) z = Gather(narrow, ids) }"
    assert bounds(graph_of, text, wide=TABLE, narrow=NARROW) == {"ids": 3}


def test_rows_of_another_axis_and_of_activations_count_too(graph_of):
    text = """g (float[2, 9] x, int64[3] columns, int64[2, 1] places) => (float[2, 3] y, float[2, 1] z)
        { y = Gather<axis = 1>(x, columns) z = GatherElements<axis = -1>(x, places) }"""
    assert bounds(graph_of, text) == {"columns": 9, "places": 9}


def test_classes_of_a_one_hot_code_are_below_its_depth(graph_of):
    text = "g (int64[6] ids) => (float[6, 11] y) { y = OneHot(ids, depth, values) }"
    numbers = {"depth": np.array([11]), "values": np.array([0, 1], np.float32)}
    assert bounds(graph_of, text, **numbers) == {"ids": 11}


def test_ids_of_keras_are_floats_that_a_cast_alone_reads(graph_of):
    text = "g (float[1, 6] ids) => (float[1, 6, 4] y) { i = Cast<to = 6>(ids) y = Gather(table, i) }"
    assert bounds(graph_of, text, table=TABLE) == {"ids": 7}


def test_floats_that_something_else_reads_too_are_no_ids(graph_of):
    text = """g (float[1, 6] x) => (float[1, 6, 4] y, float[1, 6] z)
        { i = Cast<to = 6>(x) y = Gather(table, i) f = Cast<to = 1>(i) z = Sub(x, f) }"""
    assert bounds(graph_of, text, table=TABLE) == {}


@pytest.mark.parametrize(
    "text",
    [
        "g (int64[1, 6] x) => (float[1, 6] y) { y = Cast<to = 1>(x) }",
        "g (int64[1, 6] x) => (float[2, 4] y) { s = Shape(x) y = Gather(table, s) }",
        "g (float[N, 4] data, int64[6] x) => (float[6, 4] y) { y = Gather(data, x) }",
        "g (int64[6] x, int64[2] i) => (int64[2] y) { y = Gather(x, three) }",
    ],
    ids=["selects nothing", "its shape selects", "rows of a dynamic size", "is selected from"],
)
def test_other_inputs_have_no_bound(graph_of, text):
    used = {"table": TABLE, "three": np.array([3, 3])}
    assert bounds(graph_of, text, **{name: array for name, array in used.items() if name in text}) == {}
