"""Factors with scales that no kernel takes; unoptimized ONNX Runtime computes the right values from the same graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from edgekit.engine.backend import BuildOptions, backend
from edgekit.lower.float_factors import FloatFactors, FloatRows
from edgekit.specs import Precision

RANDOM = np.random.default_rng(2)
X = RANDOM.standard_normal((2, 8, 16)).astype(np.float32)
WEIGHTS = RANDOM.integers(-127, 128, (16, 16)).astype(np.int8)
SCALES = {size: RANDOM.uniform(0.02, 0.05, size).astype(np.float32) for size in (1, 2, 8, 16)}
TEXT = """<ir_version: 10, opset_import: ["" : 21]>
g (float[2, 8, 16] x) => (float[2, 8, 16] y) {
  q = QuantizeLinear <axis = AXIS> (x, s, z)  d = DequantizeLinear <axis = AXIS> (q, s, z)
  v = DequantizeLinear <WEIGHTS> (w, t, o)  [product] y = MatMul (d, v) }"""


def scaled(
    axis: int, zero: int, dtype: str, weights: str = "axis = 1", columns: tuple[int, ...] = ()
) -> onnx.ModelProto:
    """A product whose first factor has a scale for each index of an axis, or one for all with the axis 3."""
    proto = onnx.parser.parse_model(TEXT.replace("AXIS", str(min(axis, 2))).replace("WEIGHTS", weights))
    scale = SCALES[X.shape[axis]] if axis < 3 else np.float32(0.03)
    arrays = {"s": scale, "z": np.full(scale.shape, zero, dtype), "w": WEIGHTS}
    arrays["t"] = RANDOM.uniform(0.01, 0.02, columns).astype(np.float32)
    arrays["o"] = np.zeros(columns, np.int8)
    for name, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return onnx.shape_inference.infer_shapes(proto)


def right(proto: onnx.ModelProto) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    output: np.ndarray = onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, {"x": X})[0]
    return output


def check(proto: onnx.ModelProto, target: str, folder: Path, precision: Precision = Precision.FP32) -> None:
    backend(target).require()
    onnx.save(proto, folder / "graph.onnx")
    options = BuildOptions(precision=precision, threads=1, came_quantized=True)
    result = backend(target).build(folder / "graph.onnx", folder, options)
    engine = backend(target).load(folder / result.engine, threads=1)
    np.testing.assert_allclose(engine.run({"x": X})["y"], right(proto), rtol=1e-4, atol=1e-4)
    engine.close()


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_first_factor_with_a_scale_for_each_row_or_column_runs_on_cpu(axis: int, dtype: str, tmp_path: Path) -> None:
    check(scaled(axis, 100, dtype), "cpu", tmp_path)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_first_factor_with_a_zero_point_for_each_row_runs_on_openvino(axis: int, tmp_path: Path) -> None:
    check(scaled(axis, 100, "uint8"), "openvino", tmp_path)


def test_openvino_multiplies_integers_with_a_scale_for_each_row(tmp_path: Path) -> None:
    check(scaled(1, 0, "int8"), "openvino", tmp_path, Precision.INT8)


@pytest.mark.parametrize(("weights", "columns"), [("axis = 0", (16,)), ("axis = 0, block_size = 4", (4, 16))])
@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_weights_with_scales_of_rows_or_blocks(
    target: str, weights: str, columns: tuple[int, ...], tmp_path: Path
) -> None:
    check(scaled(3, 100, "uint8", weights, columns), target, tmp_path)


@pytest.mark.parametrize(("axis", "columns"), [(3, ()), (3, (16,))])
def test_products_with_a_kernel_stay(axis: int, columns: tuple[int, ...]) -> None:
    model = ir.from_proto(scaled(axis, 100, "uint8", columns=columns))
    assert not FloatFactors("MatMul")(model).modified and not FloatRows("MatMul")(model).modified


@pytest.mark.parametrize("first", ["t = Tanh (d)", "h = QuantizeLinear (d, k, l)  t = DequantizeLinear (h, k, l)"])
def test_a_factor_that_the_file_leaves_in_float_or_in_16_bits_is_not_rounded(first: str, tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2, 8, 16] x) => (float[2, 8, 16] y)
        <float s = {0.03}, uint8 z = {120}, float k = {0.001}, int16 l = {0}, float c = {0.01}, int8 o = {0}> {
          q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  FIRST
          v = DequantizeLinear (w, c, o)  [product] y = MatMul (t, v) }""".replace("FIRST", first)
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHTS, "w"))
    check(onnx.shape_inference.infer_shapes(proto), "cpu", tmp_path)


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_weights_of_4_bits_beside_integers_are_multiplied_in_float(target: str, tmp_path: Path) -> None:
    proto = scaled(3, 100, "uint8")
    weights = next(each for each in proto.graph.initializer if each.name == "w")
    weights.CopyFrom(
        onnx.helper.make_tensor("w", onnx.TensorProto.INT4, (16, 16), RANDOM.integers(-8, 8, 256).tolist())
    )
    zero = next(each for each in proto.graph.initializer if each.name == "o")
    zero.CopyFrom(onnx.helper.make_tensor("o", onnx.TensorProto.INT4, (), [0]))
    check(proto, target, tmp_path)
