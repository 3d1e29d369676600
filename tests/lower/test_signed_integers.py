"""Unsigned integers around 128 become signed; unoptimized ONNX Runtime computes the right values from the file."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from edgekit.lower.rewriting import lower
from edgekit.lower.signed_integers import SignedIntegers

RANDOM = np.random.default_rng(8)
X = RANDOM.standard_normal((1, 4, 6, 6)).astype(np.float32) * 3
TEXT = """<ir_version: 10, opset_import: ["" : 20]>
g (float[1, 4, 6, 6] x) => (float[1, 3, 6, 6] y) <float s = {0.05}, uint8 z = {ZERO}, float t = {0.02},
  int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}> {
  q = QuantizeLinear (x, s, z)  p = Pad (q, pads)  d = DequantizeLinear (p, s, z)
  v = DequantizeLinear <axis = 0> (w, scales, points)  [conv] c = Conv (d, v)
  r = QuantizeLinear (c, t, z)  m = Identity (r)  y = DequantizeLinear (m, t, z) }"""


def model_of(zero: int, weights: np.ndarray, points: np.ndarray) -> ir.Model:
    proto = onnx.parser.parse_model(TEXT.replace("ZERO", str(zero)))
    arrays = {"w": weights, "points": points, "scales": np.asarray([0.01, 0.02, 0.05], np.float32)}
    for name, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def run(model: ir.Model) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    output: np.ndarray = session.run(None, {"x": X})[0]
    return output


def types(model: ir.Model) -> set[str]:
    values = [node.inputs[0] for node in model.graph if node.op_type == "DequantizeLinear"]
    return {value.dtype.name for value in values if value is not None and value.dtype is not None}


@pytest.mark.parametrize(
    ("dtype", "points"), [(np.uint8, [128, 128, 128]), (np.uint8, [100, 120, 0]), (np.int8, [-3, 0, 5])]
)
def test_numbers_stay_with_zero_points_of_0(dtype: type, points: list[int]) -> None:
    around = np.asarray(points).reshape(3, 1, 1, 1)
    weights = (RANDOM.integers(-90, 100, (3, 4, 3, 3)) + around).clip(0 if dtype is np.uint8 else -128, 127)
    model = model_of(128, weights.astype(dtype), np.asarray(points, dtype))
    right = run(model)
    assert lower(model, [SignedIntegers()])
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    np.testing.assert_array_equal(run(model), right)
    assert types(model) == {"INT8"}
    zeros = [node.inputs[2].const_value for node in model.graph if "Linear" in node.op_type]
    assert not any(zero.numpy().any() for zero in zeros) and {zero.dtype for zero in zeros} == {ir.DataType.INT8}


@pytest.mark.parametrize(("zero", "highest"), [(0, 255), (127, 255), (128, 256)])
def test_other_zero_points_and_wide_differences_stay(zero: int, highest: int) -> None:
    weights = RANDOM.integers(0, 256, (3, 4, 3, 3)).astype(np.uint8)
    weights.flat[0] = 255
    points = np.full(3, 128 if highest == 255 else 0, np.uint8)
    model = model_of(zero, weights, points)
    assert not SignedIntegers()(model).modified
    assert types(model) == {"UINT8"}


def test_a_graph_in_signed_integers_stays() -> None:
    text = TEXT.replace("uint8", "int8").replace("ZERO", "0")
    proto = onnx.parser.parse_model(text)
    arrays = {
        "w": RANDOM.integers(-9, 9, (3, 4, 3, 3)).astype(np.int8),
        "points": np.zeros(3, np.int8),
        "scales": np.ones(3, np.float32),
    }
    for name, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    assert not SignedIntegers()(ir.from_proto(onnx.shape_inference.infer_shapes(proto))).modified
