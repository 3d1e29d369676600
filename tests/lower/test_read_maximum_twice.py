"""Maxima with operators between them and a quantized layer; ONNX Runtime without optimizations has the right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from operator_graphs import original_outputs

from edgekit.engine.backend import BuildOptions
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.lower.read_maximum_twice import ReadMaximumTwice
from edgekit.specs import Precision
from tests.lower.models import run_in_openvino

RANDOM = np.random.default_rng(5)
X = {"x": np.abs(RANDOM.standard_normal((1, 4, 10))).astype(np.float32)}
MAXIMA = {"ReduceMax": "ReduceMax (x, axes)", "ReduceMin": "ReduceMin (x, axes)", "GlobalMaxPool": "GlobalMaxPool (x)"}
BEHIND = {
    "nothing": "v = Identity (m)",
    "tanh": "v = Tanh (m)",
    "mul": "v = Mul (m, k)",
    "relu": "a = Relu (m)  v = Mul (a, k)",
    "reshape": "a = Squeeze (m, axes)  v = Unsqueeze (a, axes)",
}


def model_of(maximum: str, behind: str) -> onnx.ModelProto:
    scale = 0.001 if maximum == "ReduceMin" else 0.011
    text = f"""<ir_version: 9, opset_import: ["" : 20]> g (float[1, 4, 10] x) => (float[1, 6, 1] y)
    <float s = {{{scale}}}, uint8 z = {{0}}, float k = {{0.7}}, int64[1] axes = {{2}}> {{
        m = {MAXIMA[maximum]}
        {BEHIND[behind]}
        q = QuantizeLinear (v, s, z)  d = DequantizeLinear (q, s, z)  e = DequantizeLinear <axis = 0> (w, ws, wz)
        y = Conv (d, e) }}"""
    model = onnx.parser.parse_model(text)
    constants = {
        "w": RANDOM.integers(-100, 100, (6, 4, 1)).astype(np.int8),
        "ws": np.full(6, 0.01, np.float32),
        "wz": np.zeros(6, np.int8),
    }
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize("maximum", MAXIMA)
@pytest.mark.parametrize("behind", BEHIND)
def test_openvino_quantizes_what_is_behind_a_maximum(behind: str, maximum: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model = model_of(maximum, behind)
    onnx.save(model, tmp_path / "m.onnx")
    options = BuildOptions(precision=Precision.INT8, threads=1, came_quantized=True)
    _, outputs = run_in_openvino(graph_from_onnx(tmp_path / "m.onnx"), X, tmp_path, options)
    expected = original_outputs(model, X)["y"]
    # A product before the rounding may give the next integer: a step of the input times the largest weight.
    np.testing.assert_allclose(outputs["y"], expected, atol=0.0015 if maximum == "ReduceMin" else 0.0115)


def test_a_maximum_that_is_not_quantized_stays() -> None:
    text = """<ir_version: 9, opset_import: ["" : 20]> g (float[1, 4, 10] x) => (float[1, 4, 1] y) {
        m = GlobalMaxPool (x)  y = Tanh (m) }"""
    graph = ir.from_proto(onnx.parser.parse_model(text))
    ReadMaximumTwice("GlobalMaxPool")(graph)
    assert [node.op_type for node in graph.graph] == ["GlobalMaxPool", "Tanh"]
