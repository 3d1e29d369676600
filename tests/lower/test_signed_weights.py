"""Products of int8 by uint8 on ONNX Runtime; without its optimizations it has the right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from operator_graphs import original_outputs

from edgekit.engine.backend import BuildOptions, backend
from edgekit.graph.file import save_graph
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.lower.signed_weights import SignedWeights
from edgekit.specs import Precision

RANDOM = np.random.default_rng(2)
X = {"x": RANDOM.standard_normal((2, 5, 8)).astype(np.float32)}


def model_of(data: str, zero: int, channels: bool) -> onnx.ModelProto:
    text = f"""<ir_version: 9, opset_import: ["" : 20]>
    g (float[2, 5, 8] x) => (float[2, 5, 6] y) <float s = {{0.03}}, {data} z = {{{zero}}}, float two = {{2.0}}> {{
        q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  k = DequantizeLinear <axis = 1> (w, ws, wz)
        h = MatMul (d, k)  y = Mul (h, two) }}"""
    model = onnx.parser.parse_model(text)
    shape = (6,) if channels else ()
    constants = {
        "w": RANDOM.integers(0, 256, (8, 6)).astype(np.uint8),
        "ws": np.asarray(np.linspace(0.004, 0.01, 6) if channels else 0.004, np.float32),
        "wz": np.asarray(RANDOM.integers(100, 150, shape), np.uint8),
    }
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize(("data", "zero"), [("int8", -7), ("int8", 0), ("uint8", 120)])
def test_onnx_runtime_multiplies_them(data: str, zero: int, channels: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = model_of(data, zero, channels)
    onnx.save(model, tmp_path / "m.onnx")
    save_graph(graph_from_onnx(tmp_path / "m.onnx"), tmp_path / "graph.onnx")
    options = BuildOptions(precision=Precision.INT8, threads=1, came_quantized=True)
    result = backend("cpu").build(tmp_path / "graph.onnx", tmp_path, options)
    engine = backend("cpu").load(tmp_path / result.engine, threads=1)
    got = engine.run(X)["y"]
    engine.close()
    np.testing.assert_allclose(got, original_outputs(model, X)["y"], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("data", "changed"), [("int8", True), ("uint8", False)])
def test_weights_have_the_same_values(data: str, changed: bool) -> None:
    model = model_of(data, 3, channels=True)
    graph = ir.from_proto(model)
    assert SignedWeights()(graph).modified is changed
    got = original_outputs(ir.to_proto(graph), X)["y"]
    np.testing.assert_array_equal(got, original_outputs(model, X)["y"])
