"""Files whose nodes stand before those that they read, as AMD Quark writes them; ONNX Runtime runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgekit.errors import GraphError
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.load.node_order import sort_nodes
from edgekit.graph.load.onnx_file import graph_from_onnx

BRANCHES = """then_branch = g1 () => (float[2] t) { late = Exp (a)  t = Sub (late, x) },
    else_branch = g2 () => (float[2] e) { e = Neg (a) }"""
TEXT = f"""<ir_version: 10, opset_import: ["" : 20]> g (float[2] x) => (float[2] y) {{
  y = Add (taken, doubled)
  taken = If (true) <{BRANCHES}>
  doubled = Add (a, a)
  true = Constant <value = bool {{1}}> ()
  a = Tanh (x)
}}"""


def test_files_with_nodes_in_another_order_are_read(tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(TEXT), tmp_path / "m.onnx")
    feed = {"x": np.array([0.3, -2.0], np.float32)}
    (expected,) = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, feed)
    np.testing.assert_allclose(expected, np.exp(np.tanh(feed["x"])) - feed["x"] + 2 * np.tanh(feed["x"]), rtol=1e-5)
    np.testing.assert_allclose(Evaluator(graph_from_onnx(tmp_path / "m.onnx")).run(feed)["y"], expected, rtol=1e-6)


def test_nodes_in_order_keep_it() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]> g (float[2] x) => (float[2] y)
      { b = Exp (x)  a = Tanh (x)  c = Neg (b)  y = Add (a, c) }"""
    model = onnx.parser.parse_model(text)
    sort_nodes(model)
    assert model == onnx.parser.parse_model(text)


def test_nodes_that_read_each_other_are_refused(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]> g (float[2] x) => (float[2] y)
      { y = Add (x, b)  b = Neg (y) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    with pytest.raises(GraphError, match="sorted"):
        graph_from_onnx(tmp_path / "m.onnx")
