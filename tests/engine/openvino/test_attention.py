from __future__ import annotations

from pathlib import Path

import attention_graphs as small
import numpy as np
import onnx
import pytest
from small_graphs import run_unfused

from edgekit.engine.backend import BuildOptions, backend
from edgekit.specs import Precision

MASKED = f"{small.TURNED}\n qs = Mul(qh, scale)\n d = MatMul(qs, kt)\n scores = Add(d, m)\n {small.SOFTMAX}"
GUARD = "w = Softmax<axis = -1>(scores)\n nan = IsNaN(w)\n weights = Where(nan, zero, w)"


@pytest.mark.parametrize(
    ("body", "fused"),
    [(small.PLAIN, 1), (MASKED, 1), (f"{small.TURNED}\n {small.SCORES}\n {GUARD}", 0)],
    ids=["plain", "masked", "guarded"],
)
def test_the_note_says_how_many_attentions_the_plugin_fuses(body: str, fused: int, tmp_path: Path) -> None:
    inputs = ", float[2, 1, 1, 7] m" if body == MASKED else ""
    model, folder, library = small.graph(body, inputs=inputs), tmp_path / "engine", backend("openvino")
    feeds = small.feeds() | ({"m": np.zeros((2, 1, 1, 7), np.float32)} if inputs else {})
    onnx.save(model, tmp_path / "graph.onnx")
    folder.mkdir()
    result = library.build(tmp_path / "graph.onnx", folder, BuildOptions(precision=Precision.FP32, threads=1))
    assert result.notes == (f"attention: {fused} of 1 run as one kernel each, which OpenVINO fuses itself",)
    engine = library.load(folder / result.engine, threads=1)
    np.testing.assert_allclose(engine.run(feeds)["y"], run_unfused(model, feeds)[0], rtol=1e-5, atol=1e-5)


def test_a_graph_without_attention_has_no_note(tmp_path: Path) -> None:
    folder, library = tmp_path / "engine", backend("openvino")
    header = '<ir_version: 10, opset_import: ["" : 20]>'
    text = "g (float[2, 3] a, float[3, 4] b) => (float[2, 4] y) { y = MatMul(a, b) }"
    onnx.save(onnx.parser.parse_model(header + text), tmp_path / "graph.onnx")
    folder.mkdir()
    options = BuildOptions(precision=Precision.FP32, threads=1)
    assert library.build(tmp_path / "graph.onnx", folder, options).notes == ()
