"""Biases of 8 and 16 bits; unoptimized ONNX Runtime computes the right values from the same graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.engine.backend import BuildOptions, backend
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.specs import Precision

RANDOM = np.random.default_rng(4)
PRODUCTS = {
    "Conv": ("Conv (d, v, c)", (6, 8, 1, 1)),
    "Gemm": ("Gemm (d, v, c)", (8, 6)),
}


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
@pytest.mark.parametrize("product", list(PRODUCTS))
def test_products_with_a_bias_of_few_bits_run_on_integers(product: str, dtype: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    call, weights = PRODUCTS[product]
    sizes, outputs = ("3, 8", "3, 6") if product == "Gemm" else ("1, 8, 5, 5", "1, 6, 5, 5")
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 21]> g (float[{sizes}] x) => (float[{outputs}] y) {{
        q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  v = DequantizeLinear (w, t, n)
        c = DequantizeLinear (b, u, o)  [product] r = {call}
        e = QuantizeLinear (r, u2, z)  y = DequantizeLinear (e, u2, z) }}"""
    )
    low = 0 if dtype == "uint8" else -100
    constants = {
        "s": np.float32(0.02),
        "z": np.uint8(128),
        "t": np.float32(0.01),
        "n": np.int8(0),
        "u": np.float32(0.03),
        "o": np.asarray(7 if dtype == "uint8" else 0, dtype),
        "u2": np.float32(0.06),
        "w": RANDOM.integers(-100, 101, weights).astype(np.int8),
        "b": RANDOM.integers(low, 100, 6).astype(dtype),
    }
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    onnx.save(onnx.shape_inference.infer_shapes(model), tmp_path / "graph.onnx")
    feed = {"x": RANDOM.standard_normal([int(size) for size in sizes.split(",")]).astype(np.float32)}
    expected = Evaluator(graph_from_onnx(tmp_path / "graph.onnx")).run(feed)["y"]
    options = BuildOptions(precision=Precision.INT8, threads=1, came_quantized=True)
    result = backend("cpu").build(tmp_path / "graph.onnx", tmp_path, options)
    assert result.layers == {"int8": 1}
    engine = backend("cpu").load(tmp_path / result.engine, threads=1)
    got = engine.run(feed)["y"]
    engine.close()
    np.testing.assert_allclose(got, expected, atol=0.0601)  # one step, where a number is between two integers
    assert (np.abs(got - expected) > 1e-4).mean() < 0.05
