from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graphs import rewritten, run_unfused

from edgekit.device.cpu import cpu
from edgekit.engine.backend import BuildOptions, backend
from edgekit.lower.merge_dequantizers import MergeDequantizers
from edgekit.specs import Precision

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (uint8[1, 2, 3, 3] x) => (float[1, 2, 3, 3] y, float[1, 2, 3, 3] z)
<float s = {0.5}, float t = {0.25}, uint8 o = {3}> {
  a = DequantizeLinear (x, s, o)  b = DequantizeLinear (x, s, o)  c = DequantizeLinear (x, t, o)
  h = HardSigmoid (a)  m = Mul (h, b)  y = Add (m, c)  z = DequantizeLinear (x, s, o)
}"""
HARD_SWISH = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y)
<float s = {0.03}, uint8 o = {128}, float ws = {0.01}, int8 wo = {0}, float ys = {0.02}> {
  xq = QuantizeLinear (x, s, o)  xd = DequantizeLinear (xq, s, o)
  wd = DequantizeLinear (w, ws, wo)
  c = Conv (xd, wd)
  cq = QuantizeLinear (c, ys, o)  cd = DequantizeLinear (cq, ys, o)
  h = HardSigmoid <alpha = 0.1666667> (cd)
  y = Mul (h, cd)
}"""


def dequantizers(model: onnx.ModelProto) -> list[str]:
    return [node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"]


def test_those_with_the_same_inputs_become_one_of_the_same_result() -> None:
    model = onnx.parser.parse_model(TEXT)
    merged, modified = rewritten(model, MergeDequantizers())
    assert modified and dequantizers(merged) == ["a", "c", "z"]
    feeds = {"x": np.arange(18, dtype=np.uint8).reshape(1, 2, 3, 3)}
    for one, other in zip(run_unfused(merged, feeds), run_unfused(model, feeds), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not rewritten(merged, MergeDequantizers())[1]


@pytest.mark.skipif(not cpu().fast_int8, reason="other processors load engines with all passes of ONNX Runtime")
def test_an_engine_dequantizes_a_tensor_once_for_all_readers(tmp_path: Path) -> None:
    model, draw = onnx.parser.parse_model(HARD_SWISH), np.random.default_rng(0)
    weights = draw.integers(-100, 100, (4, 4, 1, 1), np.int8)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
    onnx.save(model, tmp_path / "graph.onnx")
    library, folder = backend("cpu"), tmp_path / "engine"
    folder.mkdir()
    result = library.build(tmp_path / "graph.onnx", folder, BuildOptions(precision=Precision.INT8, threads=1))
    engine, feeds = library.load(folder / result.engine, threads=1), {"x": draw.normal(size=(1, 4, 6, 6)).astype("f")}
    assert len(dequantizers(onnx.load(folder / result.engine))) == 1
    timer = engine.layer_timer()
    timer.run(feeds)
    assert [layer.operator for layer in timer.finish().layers].count("DequantizeLinear") == 1
    timer.close()
    # A sum of products between two steps of the scale of 0.02 may be rounded to the other one.
    differences = np.abs(engine.run(feeds)["y"] - run_unfused(model, feeds)[0])
    assert differences.max() < 0.025 and (differences > 1e-6).mean() < 0.03
