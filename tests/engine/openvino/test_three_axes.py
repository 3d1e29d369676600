"""Products of tensors with four axes: what OpenVINO fuses with them, and that the results stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_graphs import run_unfused

import edgekit
from edgekit.engine.openvino.lowering import may_lower
from edgekit.telemetry import import_openvino

pytest.importorskip("openvino")

BLOCK = """<ir_version: 10, opset_import: ["" : 20]>
block (float[1, 16, 8, 8] x) => (float[1, 16, 8, 8] y) {
  c = Conv <kernel_shape = [7, 7], pads = [3, 3, 3, 3], group = 16> (x, kernel)
  t = Transpose <perm = [0, 2, 3, 1]> (c)
  n = LayerNormalization (t, scale, bias)
  wide = MatMul (n, first)
  wider = Add (wide, first_bias)
  active = Gelu (wider)
  narrow = MatMul (active, second)
  b = Transpose <perm = [0, 3, 1, 2]> (narrow)
  y = Add (x, b)
}"""


@pytest.fixture
def block(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    constants = {
        "kernel": rng.standard_normal((16, 1, 7, 7)) / 7,
        "scale": rng.uniform(0.5, 2, 16),
        "bias": rng.standard_normal(16),
        "first": rng.standard_normal((16, 64)) / 4,
        "first_bias": rng.standard_normal(64),
        "second": rng.standard_normal((64, 16)) / 8,
    }
    model = onnx.parser.parse_model(BLOCK)
    given = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()]
    model.graph.initializer.extend(given)
    file = tmp_path / "block.onnx"
    onnx.save(model, file)
    (tmp_path / "arrays").mkdir()
    for index in range(8):
        np.save(tmp_path / "arrays" / f"{index}.npy", rng.standard_normal((1, 16, 8, 8)).astype(np.float32))
    return file


@pytest.mark.parametrize(("precision", "least_db"), [("int8", 30), ("fp32", 100)])
def test_what_follows_a_product_of_four_axes_is_fused_with_it(block: Path, precision: str, least_db: float) -> None:
    output = block.parent / "out"
    place = edgekit.build(
        block, precision=precision, target="openvino", calib=block.parent / "arrays", output=output, profile=False
    )
    x = np.random.default_rng(1).standard_normal((1, 16, 8, 8)).astype(np.float32)
    expected = run_unfused(block, {"x": x})[0]
    with edgekit.load(place) as session:
        got = session.run({"x": x})["y"]
    assert 10 * np.log10(np.square(expected).sum() / np.square(got - expected).sum()) > least_db
    executed = import_openvino().Core().compile_model(str(place / "engine.xml"), "CPU").get_runtime_model()
    facts = [operator.get_rt_info() for operator in executed.get_ops()]
    products = [each for each in facts if each["layerType"].astype(str).startswith("FullyConnected")]
    assert len(products) == 2
    if may_lower():
        fused = {name for each in products for name in each["originalLayersNames"].astype(str).split(",")}
        assert any("active" in name or "Gelu" in name for name in fused), fused
