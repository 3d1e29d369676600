"""Of equal values, TopK on OpenVINO selects and places that with the lower index first, as ONNX Runtime does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import edgekit

RANDOM = np.random.default_rng(8)
MASKS = {
    "a constant in their place": "s = Where (keep, p, zero)",
    "a product with 0": "c = Cast <to = 1> (keep)  s = Mul (p, c)",
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("axis", "largest"), [(1, 1), (-1, 0)])
def test_scores_that_a_mask_removes_are_selected_in_order(mask: str, axis: int, largest: int, tmp_path: Path) -> None:
    """As in detectors of key points: a pixel keeps its score if it is the largest around it."""
    sign = "p = Sigmoid (x)" if largest else "n = Sigmoid (x)  p = Neg (n)"
    peaks = "m = MaxPool <kernel_shape = [9, 9], pads = [4, 4, 4, 4]> (PEAKS)".replace("PEAKS", "p" if largest else "n")
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[2, 1, 48, 64] x) => (float[2, 100] y, int64[2, 100] i, int64[2, 100] column)
    <float zero = {{0}}, int64[1] k = {{100}}, int64[2] flat = {{2, 3072}}, int64 width = {{64}}> {{
      {sign}  {peaks}  keep = Equal ({"p" if largest else "n"}, m)  {MASKS[mask]}  r = Reshape (s, flat)
      y, i = TopK <axis = {axis}, largest = {largest}> (r, k)  column = Mod (i, width) }}"""
    proto = onnx.parser.parse_model(text)
    onnx.save(proto, tmp_path / "file.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    x = RANDOM.standard_normal((2, 1, 48, 64)).astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "file.onnx", options, providers=["CPUExecutionProvider"])
    values, indices, columns = session.run(None, {"x": x})
    assert (values == 0).any() and (values != 0).any()
    place = edgekit.build(
        tmp_path / "file.onnx",
        precision="fp32",
        target="openvino",
        output=tmp_path / "e",
        profile=False,
        progress=False,
    )
    with edgekit.load(place) as engine:
        got = engine.run({"x": x})
    np.testing.assert_array_equal(got["i"], indices)
    np.testing.assert_array_equal(got["column"], columns)
    np.testing.assert_allclose(got["y"], values, rtol=1e-5)
