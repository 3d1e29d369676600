"""A newer opset is declared only where all operators mean the same in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import edgekit
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


@pytest.mark.parametrize(
    ("opset", "node", "after"),
    [
        (25, "Swish(x)", 24),
        (28, "QuantizeLinear(x, s, z)", 24),
        (28, "Relu(x)", 24),
        (25, "Attention<left_window_size = -1>(q, q, q)", 24),
        (25, "Attention<left_window_size = 2>(q, q, q)", 25),
        (28, 'SpaceToDepth<blocksize = 2, mode = "DCR">(x)', 24),
        (28, 'SpaceToDepth<blocksize = 2, mode = "CRD">(x)', 28),
        (27, "Range<stash_type = 1>(x, x, x)", 24),
        (26, "CumProd(x, i)", 26),
        (25, "Cast<to = 26>(x)", 25),  # int2
        (25, "QuantizeLinear<output_dtype = 25>(x, s)", 25),  # uint2
        (28, "RoiAlign(x, b, i)", 21),
        (24, "Swish(x)", 24),
    ],
)
def test_opset_24_is_declared_for_a_newer_one_where_all_means_the_same(opset: int, node: str, after: int) -> None:
    made = graph(opset, node)
    lower_opset(made)
    assert made.opset_imports[""] == after
    if after != opset:
        (lowered,) = made
        assert lowered.attributes.keys() <= {"blocksize"}


@pytest.mark.parametrize("activation", ["Relu", "Swish"])
@pytest.mark.parametrize("opset", [24, 25, 26, 27, 28])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_models_of_the_newest_opsets_are_built(opset: int, activation: str, precision: str, tmp_path: Path) -> None:
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : {opset}]>
        g (float[1, 3, 8, 8] x) => (float[1, 8, 8, 8] y)
        {{ c = Conv <pads = [1, 1, 1, 1]> (x, w)  h = {activation} (c)
          d = Conv <pads = [1, 1, 1, 1]> (h, v)  y = Conv <pads = [1, 1, 1, 1]> (d, v) }}""")
    random = np.random.default_rng(0)
    shapes = {"w": (8, 3, 3, 3), "v": (8, 8, 3, 3)}
    weights = {name: (random.standard_normal(shape) / 5).astype(np.float32) for name, shape in shapes.items()}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(each, name) for name, each in weights.items())
    onnx.save(model, tmp_path / "m.onnx")
    feed = {"x": random.random((1, 3, 8, 8), np.float32)}
    expected = onnx.reference.ReferenceEvaluator(model).run(None, feed)[0]
    original = OnnxOriginal(tmp_path / "m.onnx")
    assert original.name == "ONNX Runtime on m.onnx"
    np.testing.assert_allclose(original.run([feed])[0]["y"], expected, atol=1e-4)
    path = edgekit.build(tmp_path / "m.onnx", precision=precision, target="cpu", profile=False, output=tmp_path / "e")
    with edgekit.load(path) as session:
        found = session.run(feed)["y"]
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < (1e-5 if precision == "fp32" else 0.05)


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
