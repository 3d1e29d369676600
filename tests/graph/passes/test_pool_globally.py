from __future__ import annotations

import numpy as np
import pytest

from edgekit.graph.passes import FoldConstants, InferShapes, PoolGlobally, optimize

MEAN = "g ({dtype}[{shape}] x) => ({dtype}[{result}] y) {{ y = ReduceMean <keepdims = {keep}> (x, axes) }}"


def graph_with(graph_of, axes, keep=1, shape="2, 3, 5, 4", result="a, b, c, d", dtype="float"):
    return graph_of(MEAN.format(keep=keep, shape=shape, result=result, dtype=dtype), axes=np.array(axes))


def operators(graph):
    return [node.op_type for node in graph.graph]


@pytest.mark.parametrize(
    ("axes", "keep", "shape", "expected"),
    [
        ([2, 3], 1, "2, 3, 5, 4", ["GlobalAveragePool"]),
        ([-1, -2], 1, "n, 3, 5, w", ["GlobalAveragePool"]),
        ([2, 3, 4], 1, "2, 3, 5, 4, 6", ["GlobalAveragePool"]),
        ([2, 3], 0, "2, 3, 5, 4", ["GlobalAveragePool", "Flatten"]),
    ],
)
def test_mean_over_all_pixels_is_a_pooling(run_in_onnxruntime, graph_of, axes, keep, shape, expected):
    result = ", ".join("abcde"[: len(shape.split(",")) if keep else 2])
    graph = graph_with(graph_of, axes, keep, shape, result)
    x = np.random.default_rng(0).standard_normal([int(s) if s.strip().isdigit() else 3 for s in shape.split(",")])
    x = x.astype(np.float32)
    x[0, 0, 0, 0], x[-1, 1, 0, 0] = np.nan, np.inf
    optimize(graph)
    assert operators(graph) == expected
    mean = x.astype(np.float64).mean(tuple(axes), keepdims=bool(keep))
    np.testing.assert_allclose(run_in_onnxruntime(graph, {"x": x})[0], mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("axes", "shape", "result", "dtype"),
    [
        ([2], "2, 3, 5, 4", "a, b, c, d", "float"),
        ([1, 2], "2, 3, 5, 4", "a, b, c, d", "float"),
        ([0, 2, 3], "2, 3, 5, 4", "a, b, c, d", "float"),
        ([2], "2, 3, 5", "a, b, c", "float"),  # LayerNorm
        ([2, 3], "2, 3, 5, 4", "a, b, c, d", "int32"),
    ],
)
def test_other_means_stay(graph_of, axes, shape, result, dtype):
    graph = graph_with(graph_of, axes, 1, shape, result, dtype)
    for step in (InferShapes(), FoldConstants()):
        step(graph)
    assert not PoolGlobally()(graph).modified


def test_axes_that_are_removed_and_restored_are_not_touched_at_all(run_in_onnxruntime, graph_of):
    """Squeeze-and-excitation as some exporters write it: the mean without its axes, and a Reshape."""
    text = """g (float[1, 3, 5, 4] x) => (float[1, 3, 5, 4] y) {
        m = ReduceMean <keepdims = 0> (x, axes)  r = Reshape (m, shape)  c = Conv (r, w)  y = Mul (x, c) }"""
    w = np.random.default_rng(1).standard_normal((3, 3, 1, 1)).astype(np.float32)
    graph = graph_of(text, axes=np.array([2, 3]), shape=np.array([1, 3, 1, 1]), w=w)
    x = np.random.default_rng(0).standard_normal((1, 3, 5, 4)).astype(np.float32)
    expected = run_in_onnxruntime(graph, {"x": x})[0]
    optimize(graph)
    assert operators(graph) == ["GlobalAveragePool", "Conv", "Mul"]
    np.testing.assert_allclose(run_in_onnxruntime(graph, {"x": x})[0], expected, rtol=1e-5, atol=1e-6)
