"""A newer opset is declared only where all operators mean the same in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekit.graph.evaluator import Evaluator
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.opset import lower_opset, raise_opset
from edgekit.graph.original import OnnxOriginal

GRAPH = '<ir_version: 10, opset_import: ["" : {opset}]> g (float[1, 4, 8] x) => (float[1, 4, 8] y) {{ y = {node} }}'


def graph(opset: int, node: str = "Relu(x)") -> ir.Graph:
    return ir.from_proto(onnx.parser.parse_model(GRAPH.format(opset=opset, node=node))).graph


@pytest.mark.parametrize(("opset", "after"), [(20, 23), (22, 23), (23, 23), (24, 24)])
def test_a_graph_of_opset_20_or_later_gets_the_opset_or_keeps_a_newer_one(opset: int, after: int) -> None:
    made = graph(opset)
    assert raise_opset(made, 23) == ""
    assert made.opset_imports[""] == after


@pytest.mark.parametrize(
    ("opset", "node", "reason"),
    [
        (18, "Relu(x)", "its operators of opset 18 mean something else there"),
        (20, "GroupNormalization<num_groups = 2>(x, x, x)", "its GroupNormalization 'norm' of opset 20 means"),
        (21, "GroupNormalization<num_groups = 2>(x, x, x)", ""),
    ],
)
def test_what_changed_since_keeps_the_graph_as_it_is(opset: int, node: str, reason: str) -> None:
    made = graph(opset, node)
    made[0].name = "norm"
    found = raise_opset(made, 22)
    assert found.startswith(reason) and bool(found) == bool(reason)
    assert made.opset_imports[""] == (opset if reason else 22)


@pytest.mark.parametrize(
    ("node", "after"),
    [
        ("GlobalLpPool(x)", 21),
        ("Relu(x)", 23),  # ONNX Runtime runs it
        ("GlobalLpPool(x) z = RMSNormalization(x, x)", 23),  # opset 21 does not have the other
        ("GlobalLpPool(x) z = DequantizeLinear<output_dtype = 1>(q, s)", 23),  # or not with this attribute
    ],
)
def test_an_older_opset_is_declared_where_onnx_runtime_has_kernels_for_it_only(node: str, after: int) -> None:
    made = graph(23, node)
    lower_opset(made)
    assert made.opset_imports[""] == after


def test_roi_align_of_opset_22_computes_what_the_file_says(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 22]>
        g (float[1, 2, 6, 6] x, float[3, 4] boxes) => (float[3, 2, 2, 2] y) <int64[3] batch = {0, 0, 0}>
        { y = RoiAlign <output_height = 2, output_width = 2, sampling_ratio = 2> (x, boxes, batch) }""")
    onnx.save(model, tmp_path / "m.onnx")
    random = np.random.default_rng(0)
    feed = {
        "x": random.random((1, 2, 6, 6), np.float32),
        "boxes": np.float32([[0, 0, 5, 5], [1, 2, 3, 5], [2, 0, 6, 4]]),
    }
    expected = onnx.reference.ReferenceEvaluator(model).run(None, feed)[0]
    original = OnnxOriginal(tmp_path / "m.onnx")
    assert original.name == "ONNX Runtime on m.onnx"
    for found in (original.run([feed])[0], Evaluator(graph_from_onnx(tmp_path / "m.onnx")).run(feed)):
        np.testing.assert_allclose(found["y"], expected, atol=1e-6)
