"""Conditions of two dimensions on OpenVINO, which takes at most one; the right values are computed here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.engine.backend import BuildOptions, backend
from edgekit.graph.file import save_graph
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.specs import Precision

HEAD = '<ir_version: 9, opset_import: ["" : 17]>'


def run_on_openvino(text: str, feed: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    pytest.importorskip("openvino")
    onnx.save(onnx.parser.parse_model(text), folder / "m.onnx")
    save_graph(graph_from_onnx(folder / "m.onnx"), folder / "graph.onnx")
    options = BuildOptions(precision=Precision.FP32, threads=1)
    result = backend("openvino").build(folder / "graph.onnx", folder, options)
    engine = backend("openvino").load(folder / result.engine, threads=1)
    got = engine.run(feed)
    engine.close()
    return got


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("x", "expected"), [(0.75, -0.75), (0.25, 0.5)])
def test_a_branch_is_chosen(x: float, expected: float, nested: bool, tmp_path: Path) -> None:
    choice = """c) <then_branch = t () => (float[1, 1] a) { a = Neg (x) },
        else_branch = e () => (float[1, 1] b) { b = Add (x, x) }>"""
    inner = f"y = If ({choice}"
    if nested:
        inner = f"""always = Or (c, yes)
            y = If (always) <then_branch = o () => (float[1, 1] r) {{ r = If ({choice} }},
            else_branch = p () => (float[1, 1] s) {{ s = Identity (x) }}>"""
    text = f"""{HEAD} g (float[1, 1] x) => (float[1, 1] y) <float half = {{0.5}}, bool[1, 1] yes = {{1}}> {{
        c = Greater (x, half)  {inner} }}"""
    got = run_on_openvino(text, {"x": np.array([[x]], np.float32)}, tmp_path)
    np.testing.assert_allclose(got["y"], [[expected]])


def test_a_loop_ends_when_its_body_says_so(tmp_path: Path) -> None:
    text = f"""{HEAD} g (float[1, 2] x) => (float[1, 2] y) <int64 ten = {{10}}, bool yes = {{1}}> {{
        y = Loop (ten, yes, x) <body = b (int64 i, bool c, float[1, 2] s) => (bool[1, 1] d, float[1, 2] t) {{
            t = Add (s, s)  m = ReduceMax <axes = [1], keepdims = 1> (t)
            end = Constant <value = float {{20}}> ()  d = Less (m, end) }}> }}"""
    got = run_on_openvino(text, {"x": np.array([[1, 3]], np.float32)}, tmp_path)
    np.testing.assert_allclose(got["y"], [[8, 24]])  # 3, 6, 12, 24
