"""Attention with a constant bias and a computed mask, as in T5; the right values are computed here in float64."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from edgekit.graph.passes import InferShapes
from edgekit.lower.openvino_as_onnx import compute_as_onnx

RANDOM = np.random.default_rng(0)
BIAS = RANDOM.standard_normal((1, 4, 16, 16)).astype(np.float32)
FEEDS = {
    "q": RANDOM.standard_normal((1, 4, 16, 32)).astype(np.float32),
    "k": RANDOM.standard_normal((1, 4, 32, 16)).astype(np.float32),
    "v": RANDOM.standard_normal((1, 4, 16, 32)).astype(np.float32),
    "m": (RANDOM.random((1, 1, 1, 16)) < 0.6).astype(np.float32),
}


def attention(added: str, scores: str = "s = MatMul(q, k)") -> ir.Model:
    graph = onnx.parser.parse_graph(
        f"""g (float[1, 4, 16, 32] q, float[1, 4, 32, 16] k, float[1, 4, 16, 32] v, float[1, 1, 1, 16] m)
        => (float[1, 4, 16, 32] y) {{ n = Sub(one, m)  mask = Mul(n, least)  {scores}  {added}
        p = Softmax(t)  y = MatMul(p, v) }}"""
    )
    for name, array in (("bias", BIAS), ("one", np.float32(1)), ("least", np.float32(-1e9))):
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    InferShapes()(model)
    return model


def right() -> np.ndarray:
    q, k, v, m = (FEEDS[name].astype(np.float64) for name in "qkvm")
    scores = q @ k + BIAS + (1 - m) * -1e9
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True) @ v


@pytest.mark.parametrize(
    "added",
    ["b = Add(bias, mask) t = Add(s, b)", "b = Add(mask, bias) t = Add(b, s)"],
)
def test_openvino_adds_bias_and_mask(added: str) -> None:
    ov = pytest.importorskip("openvino")
    model = attention(added)
    model.graph.initializers["bias"].shape = ir.Shape(["a", "b", "c", "d"])  # as of a value that was folded
    assert compute_as_onnx(model)
    serialized = ir.to_proto(model).SerializeToString()
    compiled = ov.Core().compile_model(ov.Core().read_model(serialized), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled(FEEDS)[0], right(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "added",
    ["a = Add(s, bias) t = Add(a, mask)", "t = Add(s, mask)", "b = Add(m, mask) t = Add(s, b)"],
    ids=["one after the other", "mask alone", "two computed masks"],
)
def test_other_sums_stay(added: str) -> None:
    model = attention(added)
    before = [node.op_type for node in model.graph]
    assert not compute_as_onnx(model)
    assert [node.op_type for node in model.graph] == before
