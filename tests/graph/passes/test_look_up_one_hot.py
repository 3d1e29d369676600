"""Products of one-hot codes become look-ups; the right values are those of the product, for every index."""

from __future__ import annotations

import re

import numpy as np
import pytest

from edgekit.graph.passes import optimize

TABLE = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
NUMBERS = np.arange(5)
# Below, within and above the table: the code of an index that it lacks is all zeros, and not the last row of -1.
INDICES = np.array([[0, 4, 2, -1, 5, 1, -5, -6, 3, np.iinfo(np.int32).max, np.iinfo(np.int32).min, 4]])


def operators(graph):
    return [node.op_type for node in graph.graph]


def build(graph_of, text, kind="int64", shape="N, 3", ids="1, 12", **weights):
    given = {"table": TABLE, "columns": NUMBERS.reshape(1, 1, 5), "last": np.array([-1]), **weights}
    used = {
        name: array.astype({"int64": np.int64, "int32": np.int32}[kind]) if name == "columns" else array
        for name, array in given.items()
        if name in re.findall(r"\w+", text)
    }
    return graph_of(f"g ({kind}[{ids}] x) => (float[1, {shape}] y) {{ {text} }}", **used)


def require_same(run_in_onnxruntime, graph, expected, kind="int64", indices=INDICES):
    x = indices.astype(kind)
    before = run_in_onnxruntime(graph, {"x": x})[0]
    optimize(graph)
    assert operators(graph) == expected
    np.testing.assert_array_equal(run_in_onnxruntime(graph, {"x": x})[0], before)
    return before


@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_a_comparison_with_all_numbers(run_in_onnxruntime, graph_of, kind):
    text = "i = Unsqueeze (x, last) e = Equal (i, columns) h = Cast <to = 1> (e) y = MatMul (h, table)"
    result = require_same(run_in_onnxruntime, build(graph_of, text, kind), ["Min", "Max", "Gather"], kind)
    np.testing.assert_array_equal(result[0, 1], TABLE[4])
    np.testing.assert_array_equal(result[0, 3:5], 0)


def test_numbers_first_and_broadcast_before(run_in_onnxruntime, graph_of):
    text = (
        "i = Unsqueeze (x, last) b = Expand (i, wide) e = Equal (columns, b) h = Cast <to = 1> (e) "
        "y = MatMul (h, table)"
    )
    graph = build(graph_of, text, wide=np.array([1, 12, 5]))
    require_same(run_in_onnxruntime, graph, ["Min", "Max", "Gather"])


def test_what_follows_is_done_to_the_table(run_in_onnxruntime, graph_of):
    text = (
        "i = Unsqueeze (x, last) e = Equal (i, columns) h = Cast <to = 1> (e) m = MatMul (h, table) "
        "a = Add (m, bias) r = Relu (a) y = Mul (scale, r)"
    )
    graph = build(graph_of, text, bias=np.float32([[[1, -2, 3]]]), scale=np.float32(1.5))
    result = require_same(run_in_onnxruntime, graph, ["Min", "Max", "Gather"])
    np.testing.assert_array_equal(result[0, 3], [1.5, 0, 4.5])  # of zeros, relu(bias) * scale


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("i = Unsqueeze (x, last) e = Equal (i, columns) h = Cast <to = 1> (e) y = MatMul (h, table)", {"columns": 4}),
        ("i = Unsqueeze (x, last) e = Less (i, columns) h = Cast <to = 1> (e) y = MatMul (h, table)", {}),
        ("i = Unsqueeze (x, last) e = Equal (i, columns) h = Cast <to = 1> (e) y = MatMul (h, table)", {"table": 1}),
    ],
)
def test_others_stay(run_in_onnxruntime, graph_of, text, weights):
    """Numbers in another order, another comparison, and a table with an infinity, which makes each result NaN."""
    changed = {
        "columns": {"columns": NUMBERS[::-1].reshape(1, 1, 5)},
        "table": {"table": np.where(TABLE == TABLE.max(), np.inf, TABLE).astype(np.float32)},
    }
    given = {key: array for name in weights for key, array in changed[name].items()}
    graph = build(graph_of, text, **given)
    require_same(run_in_onnxruntime, graph, operators(graph))


def test_arithmetic_behind_an_embedding(run_in_onnxruntime, graph_of):
    graph = build(graph_of, "g = Gather (table, x) a = Add (bias, g) y = Tanh (a)", bias=np.float32([1, -2, 3]))
    x = np.abs(INDICES) % 5
    expected = run_in_onnxruntime(graph, {"x": x})[0]
    optimize(graph)
    assert operators(graph) == ["Gather"]
    np.testing.assert_allclose(run_in_onnxruntime(graph, {"x": x})[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("g = Gather (table, x) y = Add (g, tall)", {"tall": np.ones((12, 3), np.float32)}),
        ("g = Gather <axis = 1> (table, x) y = Relu (g)", {"table": TABLE.T.copy()}),
        ("g = Gather (table, x) r = Relu (g) y = MatMul (r, table)", {"table": TABLE[:3]}),
    ],
)
def test_what_differs_by_place_stays(run_in_onnxruntime, graph_of, text, weights):
    """A constant of each place, rows that are gathered from columns; a table that something else reads is kept once."""
    shape = "N, 3" if "axis" not in text else "N, M"
    graph = build(graph_of, text, shape=shape, **weights) if "axis" not in text else None
    if graph is None:
        used = {"table": weights["table"]}
        graph = graph_of(f"g (int64[1, 12] x) => (float[3, 1, 12] y) {{ {text} }}", **used)
    x = np.abs(INDICES) % 3
    expected = run_in_onnxruntime(graph, {"x": x})[0]
    optimize(graph)
    assert operators(graph)[0] == "Gather" and len(operators(graph)) > 1
    np.testing.assert_array_equal(run_in_onnxruntime(graph, {"x": x})[0], expected)
