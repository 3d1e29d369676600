from __future__ import annotations

import numpy as np
import pytest

from edgekit.graph.passes import FoldConstants, InferShapes


@pytest.mark.parametrize(
    ("expression", "value"),
    [("Sinh (w)", np.inf), ("Reciprocal (z)", np.inf), ("Sqrt (n)", np.nan), ("ReduceMean <keepdims = 0> (e)", np.nan)],
)
def test_infinities_and_nan_in_constants_are_folded_without_a_word(graph_of, capfd, expression, value):
    graph = graph_of(
        f"g (float[1] x) => (float[1] y) {{ c = {expression}  y = Add (x, c) }}",
        w=np.array([1e30], np.float32),
        z=np.zeros(1, np.float32),
        n=-np.ones(1, np.float32),
        e=np.zeros(0, np.float32),
    )
    FoldConstants()(graph)  # warnings are errors in tests
    (node,) = graph.graph
    np.testing.assert_array_equal(node.inputs[1].const_value.numpy().ravel(), np.float32(value))
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_weights_before_a_q_dq_pair_become_integers(graph_of, dtype):
    """So files for TensorRT and of quantization-aware training write weights."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 4)).astype(np.float32)
    weight[0] = [0.5, 1.5, -2.5, 1e6]  # halves round to even, and what is outside is clipped
    scale, zero = np.array([1, 1, 1, 0.03], np.float32), np.array([0, 3, 5, 7], dtype)
    graph = graph_of(
        "g (float[2, 6] x) => (float[2, 4] y)"
        " { q = QuantizeLinear (w, s, z)  d = DequantizeLinear (q, s, z)  y = MatMul (x, d) }",
        w=weight,
        s=scale,
        z=zero,
    )
    InferShapes()(graph)
    FoldConstants()(graph)
    dequantize, product = graph.graph
    assert (dequantize.op_type, product.op_type) == ("DequantizeLinear", "MatMul")
    limits = np.iinfo(dtype)
    expected = np.clip(np.rint(weight / scale) + zero.astype(np.float32), limits.min, limits.max)
    integers = dequantize.inputs[0].const_value.numpy()
    assert integers.dtype == dtype
    np.testing.assert_array_equal(integers, expected)
