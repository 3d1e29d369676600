"""What OpenVINO 2026.4 gets wrong by itself, against float ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import edgekit
from edgekit.engine.bundle import read_manifest

pytest.importorskip("openvino")

CHAIN = """
<ir_version: 10, opset_import: ["" : 20]>
chain (float[{rows}, 64] x) => (float[{rows}, 8] y) {{
  wide = {first}
  active = Relu(wide)
  y = MatMul(active, second)
}}
"""


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(
    "first",
    ["MatMul(x, first)", "Gemm(x, first, number)", "Gemm(x, first, bias)"],
    ids=["no bias", "a bias of one number", "bias"],
)
def test_chained_integer_products_compute_what_the_graph_says(tmp_path: Path, first: str, rows: int) -> None:
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(CHAIN.format(first=first, rows=rows))
    constants = {
        "first": rng.standard_normal((64, 32)) / 8,
        "second": rng.standard_normal((32, 8)) / 6,
        "number": np.full(1, 0.3),
        "bias": rng.standard_normal(32),
    }
    used = {name for node in model.graph.node for name in node.input}
    for name in used & set(constants):
        model.graph.initializer.append(onnx.numpy_helper.from_array(constants[name].astype(np.float32), name))
    onnx.save(model, tmp_path / "chain.onnx")
    inputs = rng.standard_normal((8, rows, 64)).astype(np.float32)
    (tmp_path / "arrays").mkdir()
    for i, x in enumerate(inputs):
        np.save(tmp_path / "arrays" / f"{i}.npy", x)

    place = edgekit.build(
        tmp_path / "chain.onnx", target="openvino", calib=tmp_path / "arrays", output=tmp_path / "out", profile=False
    )
    assert read_manifest(place).layers.get("int8", 0) >= 1
    reference = onnxruntime.InferenceSession(tmp_path / "chain.onnx", providers=["CPUExecutionProvider"])
    with edgekit.load(place) as session:
        got = np.stack([session.run({"x": x})["y"] for x in inputs])
    exact = np.stack([reference.run(None, {"x": x})[0] for x in inputs])
    assert 10 * np.log10(np.square(exact).sum() / np.square(got - exact).sum()) > 20
