"""Weights with zero points on OpenVINO; ONNX Runtime without optimizations has the right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.engine.backend import BuildOptions
from edgekit.errors import BuildError
from edgekit.graph.evaluator import Evaluator
from edgekit.lower.rewriting import lower
from edgekit.lower.weights_without_zero_point import WeightsWithoutZeroPoint
from edgekit.specs import Precision
from tests.lower.models import model_of_text, run_in_openvino

RANDOM = np.random.default_rng(3)
PRODUCTS = {
    "MatMul": ("float[2,5,6] x", "y = MatMul (d, wd)", (6, 6)),
    "Gemm": ("float[5,6] x", "y = Gemm (d, wd)", (6, 6)),
    "Conv": ("float[1,6,7,8] x", "y = Conv (d, wd)", (6, 6, 3, 3)),
    "ConvTranspose": ("float[1,6,7,8] x", "y = ConvTranspose (d, wd)", (6, 6, 3, 3)),
}


def model(operator: str, weights: np.ndarray, zero: np.ndarray, axis: int) -> ir.Model:
    values, product, _ = PRODUCTS[operator]
    constants = {
        "s": np.float32(0.03),
        "z": np.int8(0) if operator == "ConvTranspose" else np.uint8(120),
        "w": weights,
        "ws": RANDOM.uniform(0.001, 0.01, zero.shape).astype(np.float32),
        "wz": zero,
    }
    nodes = "q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)"
    nodes += f"  wd = DequantizeLinear <axis = {axis}> (w, ws, wz)  {product}"
    rank = values.count(",") + 1
    return ir.from_proto(model_of_text(nodes, values, f"float[{', '.join('abcd'[:rank])}] y", constants))


@pytest.mark.parametrize("zeros", [(), (6,)], ids=["one", "channels"])
@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize("operator", list(PRODUCTS))
def test_a_product_whose_weights_have_zero_points_runs_on_integers(
    operator: str, kind: type[np.integer], zeros: tuple[int, ...], tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    shape = PRODUCTS[operator][2]
    center = 128 if kind is np.uint8 else 0
    zero = (RANDOM.integers(1, 9, zeros) + center).astype(kind)
    weights = (RANDOM.integers(-110, 110, shape) + center).astype(kind)
    graph = model(operator, weights, zero, 0 if operator == "Conv" else 1)
    sizes = graph.graph.inputs[0].shape
    assert sizes is not None
    feed = {"x": RANDOM.standard_normal(sizes.numpy()).astype(np.float32)}
    expected = Evaluator(graph).run(feed)["y"]
    options = BuildOptions(precision=Precision.INT8, threads=1, came_quantized=True)
    result, outputs = run_in_openvino(graph, feed, tmp_path, options)
    assert result.layers == {"int8": 1}
    np.testing.assert_allclose(outputs["y"], expected, atol=2e-5)


@pytest.mark.parametrize(("summed", "layers"), [(64, {"int8": 1}), (6, None)])
def test_a_wide_range_of_weights_is_multiplied_by_integers_that_openvino_makes(
    summed: int, layers: dict[str, int] | None, tmp_path: Path
) -> None:
    """ONNX Runtime's quantizer writes such weights for QUInt8: they cannot be signed, and OpenVINO has own ranges."""
    pytest.importorskip("openvino")
    weights = RANDOM.integers(0, 256, (summed, 48)).astype(np.uint8)
    constants = {
        **{"s": np.float32(0.03), "z": np.uint8(120), "w": weights},
        **{"ws": np.float32(0.005), "wz": np.array(119, np.uint8)},
    }
    nodes = "q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)"
    nodes += "  wd = DequantizeLinear (w, ws, wz)  y = MatMul (d, wd)"
    graph = ir.from_proto(model_of_text(nodes, f"float[5, {summed}] x", "float[5, 48] y", constants))
    feed = {"x": RANDOM.standard_normal((5, summed)).astype(np.float32)}
    expected = Evaluator(graph).run(feed)["y"]
    options = BuildOptions(precision=Precision.INT8, threads=1, came_quantized=True)
    if layers is None:
        with pytest.raises(BuildError, match="in float32, expected int8"):
            run_in_openvino(graph, feed, tmp_path, options)
        return
    result, outputs = run_in_openvino(graph, feed, tmp_path, options)
    assert result.layers == layers
    noise = outputs["y"] - expected
    assert 10 * np.log10(np.square(expected).sum() / np.square(noise).sum()) > 35


def test_weights_stay_where_a_difference_does_not_fit_or_no_zero_point_is_there() -> None:
    wide = np.array([[0, 255], [3, 4]], np.uint8).repeat(3, 0).repeat(3, 1)
    assert not lower(model("MatMul", wide, np.array(100, np.uint8), 1), [WeightsWithoutZeroPoint("MatMul")])
    plain = RANDOM.integers(-128, 127, (6, 6)).astype(np.int8)
    assert not lower(model("MatMul", plain, np.array(0, np.int8), 1), [WeightsWithoutZeroPoint("MatMul")])
