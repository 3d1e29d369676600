"""Scans whose bodies read outer values, on OpenVINO; ONNX Runtime without optimizations has the right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.engine.backend import BuildOptions
from edgekit.graph.evaluator import Evaluator
from edgekit.lower.pass_outer_values import PassOuterValues
from edgekit.lower.rewriting import lower
from edgekit.specs import Precision
from tests.lower.models import run_in_openvino

RANDOM = np.random.default_rng(2)
BODY = """b (float[4] s, float[4] e) => (float[4] so, float[4] yo)
{ t = Add (s, e)  m = Mul (t, outer)  so = Sub (m, other)  yo = Add (so, k) }"""


def model(*, steps: int | str = 6, constants: bool = False, **attributes: list[int]) -> ir.Model:
    body = onnx.parser.parse_graph(BODY)
    scan = helper.make_node("Scan", ["s", "x"], ["last", "y"], name="scan", num_scan_inputs=1, body=body, **attributes)
    tanh = helper.make_node("Tanh", ["w"], ["outer"], name="tanh")
    floats = TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("s", floats, [4]), helper.make_tensor_value_info("x", floats, [steps, 4])]
    held = [numpy_helper.from_array(np.float32(0.3), "k")]
    if constants:
        held += [numpy_helper.from_array(np.ones(4, np.float32), name) for name in ("outer", "other")]
    else:
        inputs += [helper.make_tensor_value_info(name, floats, [4]) for name in ("w", "other")]
    outputs = [helper.make_tensor_value_info(n, floats, s) for n, s in (("last", [4]), ("y", [steps, 4]))]
    graph = helper.make_graph([scan] if constants else [tanh, scan], "g", inputs, outputs, held)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return ir.from_proto(made)


@pytest.mark.parametrize("attributes", [{}, {"scan_input_directions": [1], "scan_output_directions": [1]}])
@pytest.mark.parametrize("steps", [6, "n"])
def test_a_scan_reads_what_is_around_it(steps: int | str, attributes: dict[str, list[int]], tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    graph = model(steps=steps, **attributes)
    feed = {name: RANDOM.standard_normal(4).astype(np.float32) for name in ("s", "w", "other")}
    feed["x"] = RANDOM.standard_normal((6, 4)).astype(np.float32)
    expected = Evaluator(graph).run(feed)
    _, got = run_in_openvino(graph, feed, tmp_path, BuildOptions(precision=Precision.FP32, threads=1))
    for name in ("last", "y"):
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, atol=1e-6)


def test_a_scan_that_reads_constants_alone_stays() -> None:
    assert not lower(model(constants=True), [PassOuterValues()])
