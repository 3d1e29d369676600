"""Files of static quantizers become float files; numpy computes the right values in float64 from their integers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from edgekit.graph.passes import InferShapes
from edgekit.graph.passes.remove_static_quantization import RemoveStaticQuantization

RANDOM = np.random.default_rng(3)
HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'


def model_of(text: str, **arrays: np.ndarray) -> ir.Model:
    proto = onnx.parser.parse_model(HEAD + text)
    for name, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def removed(model: ir.Model) -> ir.Model:
    assert RemoveStaticQuantization()(model).modified
    InferShapes()(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    output: np.ndarray = session.run(None, {"x": x})[0]
    return output


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph if node.op_type != "Identity"]


PRODUCT = """g (float[5, 8] x) => (float[5, 6] y)
<float s = {0.03}, uint8 z = {FIRST}, float t = {0.05}, uint8 o = {SECOND}>
{ q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  v = DequantizeLinear <axis = 1> (w, scales, points)
  [product] m = MatMul (d, v)  r = QuantizeLinear (m, t, o)  y = DequantizeLinear (r, t, o) }"""
WEIGHTS = {
    "w": RANDOM.integers(0, 256, (8, 6)).astype(np.uint8),
    "scales": RANDOM.uniform(0.01, 0.03, 6).astype(np.float32),
    "points": RANDOM.integers(90, 160, 6).astype(np.uint8),
}
FLOATS = (WEIGHTS["w"] - WEIGHTS["points"].astype(np.float64)) * WEIGHTS["scales"]
X = RANDOM.uniform(-4, 4, (5, 8)).astype(np.float32)


@pytest.mark.parametrize(
    ("zero", "low", "high"),
    [
        (0, 0.0, 255 * 0.05),  # what was a Relu, or a Clip from 0 on
        (255, -255 * 0.05, 0.0),
        (128, -128 * 0.05, 127 * 0.05),  # what may have been a Clip between -6.4 and 6.35
        (40, -np.inf, np.inf),
    ],
)
def test_products_are_those_of_the_numbers_that_the_weights_stand_for(zero: int, low: float, high: float) -> None:
    model = removed(model_of(PRODUCT.replace("FIRST", "77").replace("SECOND", str(zero)), **WEIGHTS))
    assert operators(model) == (["MatMul", "Clip"] if np.isfinite(low) else ["MatMul"])
    assert [node.name for node in model.graph if node.op_type == "MatMul"] == ["product"]
    right = np.clip(X @ FLOATS, low, high)
    assert (np.abs(X @ FLOATS) > 13).any()  # the bounds act
    np.testing.assert_allclose(run(model, X), right, rtol=1e-5, atol=1e-5)


def test_an_activation_function_that_is_still_there_gets_no_bounds() -> None:
    text = """g (float[5, 8] x) => (float[5, 8] y) <float s = {0.01}, uint8 z = {0}>
    { r = Relu (x)  q = QuantizeLinear (r, s, z)  y = DequantizeLinear (q, s, z) }"""
    model = removed(model_of(text))
    assert operators(model) == ["Relu"]
    np.testing.assert_array_equal(run(model, X), np.maximum(X, 0))


@pytest.mark.parametrize("fill", ["", ", fill"])
def test_integers_are_moved_as_floats(fill: str) -> None:
    text = f"""g (float[5, 8] x) => (float[7, 16] y) <float s = {{0.05}}, uint8 z = {{20}}, uint8 fill = {{3}},
      int64[4] pads = {{1, 0, 1, 0}}>
    {{ q = QuantizeLinear (x, s, z)  c = Concat <axis = 1> (q, q)  p = Pad (c, pads{fill})
      y = DequantizeLinear (p, s, z) }}"""
    right = np.pad(np.tile(X.astype(np.float64), 2), ((1, 1), (0, 0)), constant_values=0.05 * ((3 if fill else 0) - 20))
    np.testing.assert_allclose(run(removed(model_of(text)), X), right, rtol=1e-6)


def test_rows_of_a_table_and_inputs_of_integers() -> None:
    text = """g (uint8[2, 3] x) => (float[2, 3, 8] y) <float s = {0.25}, uint8 z = {7}, float t = {0.01}, uint8 o = {9}>
    { d = DequantizeLinear (x, s, z)  i = Cast <to = 7> (d)  r = Gather (w, i)  y = DequantizeLinear (r, t, o) }"""
    table = RANDOM.integers(0, 256, (9, 8)).astype(np.uint8)
    x = RANDOM.integers(7, 40, (2, 3)).astype(np.uint8)
    rows = ((x - 7.0) * 0.25).astype(np.int64)
    right = (table.astype(np.float64)[rows] - 9) * 0.01
    np.testing.assert_allclose(run(removed(model_of(text, w=table)), x), right, rtol=1e-5)


def test_an_output_of_integers_has_the_same_numbers() -> None:
    text = """g (float[5, 8] x) => (int8[8, 5] y) <float s = {0.05}, int8 z = {-20}>
    { q = QuantizeLinear (x, s, z)  y = Transpose (q) }"""
    model = removed(model_of(text))
    x = np.concatenate([X[:4], X[4:] * 9])
    right = np.clip(np.rint(x / np.float32(0.05)) - 20, -128, 127).T
    np.testing.assert_array_equal(run(model, x), right)
    assert model.graph.outputs[0].dtype == ir.DataType.INT8


def test_blocks_of_a_weight_have_their_own_scales() -> None:
    text = """g (float[5, 8] x) => (float[5, 6] y) <float s = {0.03}, int16 z = {0}>
    { q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)
      v = DequantizeLinear <axis = 0, block_size = 4> (w, scales, points)  y = MatMul (d, v) }"""
    w = RANDOM.integers(0, 256, (8, 6)).astype(np.uint8)
    scales = RANDOM.uniform(0.01, 0.03, (2, 6)).astype(np.float32)
    points = RANDOM.integers(90, 160, (2, 6)).astype(np.uint8)
    right = X @ ((w - np.repeat(points, 4, 0).astype(np.float64)) * np.repeat(scales, 4, 0))
    model = removed(model_of(text, w=w, scales=scales, points=points))
    np.testing.assert_allclose(run(model, X), right, rtol=1e-5, atol=1e-5)


def in_arithmetic(model: ir.Model) -> ir.Model:
    assert RemoveStaticQuantization(rounding=True)(model).modified
    InferShapes()(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(operators(model))
    return model


@pytest.mark.parametrize("zero", [0, 40, 255])
def test_arithmetic_rounds_as_the_pairs_do(zero: int) -> None:
    text = PRODUCT.replace("FIRST", "77").replace("SECOND", str(zero))
    x = np.concatenate([X[:3], X[3:] * 9])
    right = run(model_of(text, **WEIGHTS), x)
    got = run(in_arithmetic(model_of(text, **WEIGHTS)), x)
    np.testing.assert_allclose(got, right, rtol=1e-6, atol=1e-6)
    assert np.unique(np.rint(right / 0.05)).size > 5


def test_arithmetic_rounds_each_channel_with_its_own_scale() -> None:
    text = """g (float[5, 8] x) => (float[5, 8] y)
    { q = QuantizeLinear <axis = 0> (x, s, z)  y = DequantizeLinear <axis = 0> (q, s, z) }"""
    scale = {"s": np.array([0.01, 0.02, 0.05, 0.1, 0.3], np.float32), "z": np.array([0, 9, -3, 5, -128], np.int8)}
    got = run(in_arithmetic(model_of(text, **scale)), X)
    np.testing.assert_allclose(got, run(model_of(text, **scale), X), rtol=1e-6, atol=1e-6)


def test_arithmetic_keeps_outputs_of_integers() -> None:
    text = """g (float[5, 8] x) => (int8[8, 5] y) <float s = {0.05}, int8 z = {-20}>
    { q = QuantizeLinear (x, s, z)  y = Transpose (q) }"""
    np.testing.assert_array_equal(run(in_arithmetic(model_of(text)), X), run(model_of(text), X))


def test_activations_with_scales_of_blocks_are_not_rounded_by_arithmetic() -> None:
    text = """g (float[5, 8] x) => (float[5, 8] y)
    { q = QuantizeLinear <axis = 1, block_size = 4> (x, s, z)
      y = DequantizeLinear <axis = 1, block_size = 4> (q, s, z) }"""
    parameters = {"s": np.full((5, 2), 0.02, np.float32), "z": np.zeros((5, 2), np.int8)}
    model = model_of(text, **parameters)
    assert not RemoveStaticQuantization(rounding=True)(model).modified


@pytest.mark.parametrize(
    "text",
    [
        # two readers that take the integers for different numbers
        """g (float[5, 8] x) => (float[5, 8] y) <float s = {0.05}, uint8 z = {20}, float t = {0.1}>
        { q = QuantizeLinear (x, s, z)  a = DequantizeLinear (q, s, z)  b = DequantizeLinear (q, t, z)
          y = Add (a, b) }""",
        # arithmetic on the integers
        """g (float[5, 8] x) => (float[5, 8] y) <float s = {0.05}, uint8 z = {20}>
        { q = QuantizeLinear (x, s, z)  a = Add (q, q)  y = DequantizeLinear (a, s, z) }""",
        # a scale of each run
        """g (float[5, 8] x) => (float[5, 8] y) <uint8 z = {20}, float t = {255}>
        { m = ReduceMax <keepdims = 0> (x)  s = Div (m, t)  q = QuantizeLinear (x, s, z)
          y = DequantizeLinear (q, s, z) }""",
        "g (float[5, 8] x) => (float[5, 8] y) { y = Relu (x) }",
    ],
)
def test_other_graphs_stay(text: str) -> None:
    model = model_of(text)
    before = ir.to_proto(model).SerializeToString()
    assert not RemoveStaticQuantization()(model).modified
    assert ir.to_proto(model).SerializeToString() == before
