from __future__ import annotations

import numpy as np
import pytest

from edgekit.graph.passes import optimize

SIZES = {
    "s": np.array([2, 12]),
    "keep": np.array([0, -1, 3]),
    "four": np.array([4, -1]),
    "one": np.array([1]),
    "last": np.array([-1]),
    "empty": np.array([], np.int64),
}


def operators(graph):
    return [node.op_type for node in graph.graph]


@pytest.mark.parametrize(
    ("given", "text", "shape"),
    [
        ("2, 3, 4", "a = Reshape (x, s)  b = Reshape (a, four)", ["Reshape"]),
        ("n, 3, 4", "a = Flatten (x)  b = Reshape (a, four)", ["Reshape"]),
        ("2, 3, 4", "a = Reshape (x, s)  b = Reshape (a, keep)", ["Reshape"]),
        ("2, 3, 4", "a = Unsqueeze (x, one)  c = Flatten (a)  b = Unsqueeze (c, last)", ["Reshape"]),
        ("2, 3, 4", "a = Unsqueeze (x, one)  b = Squeeze (a, one)", []),
        ("2, 3, 4", "a = Flatten (x)  c = Relu (a)  b = Reshape (c, four)", ["Flatten", "Relu", "Reshape"]),
        ("n, 3, 4", "a = Flatten (x)  b = Unsqueeze (a, one)", ["Flatten", "Unsqueeze"]),
    ],
)
def test_shape_changes_are_merged(run_in_onnxruntime, graph_of, given, text, shape):
    rank = {"four": 2, "keep": 3}.get(text.rstrip(")").split()[-1], 3)
    names = ", ".join("abcde"[:rank])
    used = {name: array for name, array in SIZES.items() if f"{name})" in text}
    graph = graph_of(f"g (float[{given}] x) => (float[{names}] y) {{ {text}  y = Neg (b) }}", **used)
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    expected = run_in_onnxruntime(graph, {"x": x})[0]
    optimize(graph)
    assert operators(graph) == [*shape, "Neg"]
    np.testing.assert_array_equal(run_in_onnxruntime(graph, {"x": x})[0], expected)


def test_a_shape_that_is_an_output_stays(run_in_onnxruntime, graph_of):
    text = "g (float[2, 3, 4] x) => (float[2, 12] a, float[4, 6] y) { a = Reshape (x, s)  y = Reshape (a, four) }"
    graph = graph_of(text, s=SIZES["s"], four=SIZES["four"])
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    expected = run_in_onnxruntime(graph, {"x": x})
    optimize(graph)
    assert operators(graph) == ["Reshape", "Reshape"]
    for got, wanted in zip(run_in_onnxruntime(graph, {"x": x}), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
