from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from edgekit.graph.passes import FoldNorms, InferShapes, optimize

TRAINING = "BatchNormalization <training_mode = 1, epsilon = 0.001>"


def run(graph, feed):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = ir.to_proto(graph).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, {"x": feed})


@pytest.mark.parametrize(
    ("norm", "left"),
    [
        (f"n, mean, variance = {TRAINING} (v, s, b, m, m)", 0),
        ("n = LayerNormalization (v, l, l)", 0),
        ("n = LayerNormalization <axis = 1, epsilon = 0.01> (v, o)", 0),
        ("n = LayerNormalization <axis = 0> (v, v)", 0),
        (f"n, mean, variance = {TRAINING} (v, s, b, m, m)  z = Neg (mean)", 1),
        (f"n, mean, variance = {TRAINING} (v, s, r, m, m)", 1),
    ],
)
def test_a_normalization_of_constants_is_computed_once(graph_of, norm, left):
    rng = np.random.default_rng(0)
    constants = {"s": (5,), "b": (5,), "m": (5,), "l": (7,), "o": (5, 7), "v": (3, 5, 7)}
    arrays = {name: rng.normal(1, 2, shape).astype(np.float32) for name, shape in constants.items()}
    more = ", float[5] z" if "z =" in norm else ""
    text = f"g (float[5] x) => (float[3, 5, 7] y{more}) {{ r = Neg (x)  {norm}  y = Add (n, v) }}"
    graph = graph_of(text, **arrays)
    feed = rng.normal(size=5).astype(np.float32)
    right = run(graph, feed)
    InferShapes()(graph)
    FoldNorms()(graph)
    assert sum("Normalization" in node.op_type for node in graph.graph) == left
    for expected, got in zip(right, run(graph, feed), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [8, 400])
def test_weights_that_are_standardized_are_constants(graph_of, channels):
    rng = np.random.default_rng(0)
    text = f"""g (float[1, {channels}, 6, 6] x) => (float[1, {channels}, 6, 6] y) {{
        n, mean, variance = BatchNormalization <training_mode = 1> (v, s, b, m, q)  w = Reshape (n, shape)
        y = Conv <pads = [1, 1, 1, 1]> (x, w) }}"""
    graph = graph_of(
        text,
        v=rng.normal(size=(1, channels, channels * 9)).astype(np.float32),
        s=np.ones(channels, np.float32),
        b=np.zeros(channels, np.float32),
        m=np.zeros(channels, np.float32),
        q=np.ones(channels, np.float32),
        shape=np.array([channels, channels, 3, 3]),
    )
    feed = rng.normal(size=(1, channels, 6, 6)).astype(np.float32)
    (right,) = run(graph, feed)
    optimize(graph)
    assert [node.op_type for node in graph.graph] == ["Conv"]
    assert graph.graph[0].inputs[1].const_value is not None
    np.testing.assert_allclose(run(graph, feed)[0], right, rtol=1e-3, atol=1e-3)
