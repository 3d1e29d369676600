"""Loops whose bodies pass states on, on OpenVINO; ONNX Runtime without optimizations has the right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.engine.backend import BuildOptions
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.specs import Precision
from tests.lower.models import run_in_openvino

LOOP = """y, k, ys = Loop (three, yes, x, w) <body = b (int64 i, bool c, float[2, 4] s, float[4] v)
    => (bool d, float[2, 4] t, float[4] v_out, float[2, 4] o) {{ {body}  d = Identity (c) }}>"""
BODIES = {
    "states passed on": "t = Add (s, v)  o = Tanh (t)",
    "states passed on beside a tensor from outside": "h = Add (s, v)  t = Mul (h, x)  o = Tanh (t)",
    "states that nothing reads": "t = Add (s, x)  o = Tanh (t)",
}


def model(body: str, *, twice: bool) -> onnx.ModelProto:
    made = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17]>
        g (float[2, 4] x, float[4] w) => (float[2, 4] y, float[4] k, float[3, 2, 4] ys)
        <int64 three = {{3}}, bool yes = {{1}}> {{ {LOOP.format(body=body)} }}"""
    )
    (attribute,) = made.graph.node[0].attribute
    names = [output.name for output in attribute.g.output]
    attribute.g.output[names.index("v_out")].name = "v"
    if twice:
        attribute.g.output[names.index("o")].name = "t"
    return made


@pytest.mark.parametrize("twice", [False, True], ids=["", "a state that is an output too"])
@pytest.mark.parametrize("body", BODIES)
def test_states_that_a_body_passes_on_are_built(body: str, twice: bool, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    onnx.save(model(BODIES[body], twice=twice), tmp_path / "m.onnx")
    graph = graph_from_onnx(tmp_path / "m.onnx")
    random = np.random.default_rng(0)
    feed = {name: random.standard_normal(shape).astype(np.float32) for name, shape in {"x": (2, 4), "w": (4,)}.items()}
    expected = Evaluator(graph).run(feed)
    options = BuildOptions(precision=Precision.FP32, threads=1)
    _, got = run_in_openvino(graph, feed, tmp_path, options)
    for name in ("y", "k", "ys"):
        np.testing.assert_allclose(got[name], expected[name], atol=1e-5)
