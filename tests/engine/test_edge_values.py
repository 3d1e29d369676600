"""Engines on numbers at the edges of their types, against ONNX Runtime without optimizations on the original file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from edge_graphs import edge_graphs
from onnx import TensorProto, helper
from operator_graphs import Graph, feeds_of, merged, original_outputs

from edgekit.engine.backend import BuildOptions, backend
from edgekit.engine.base import BaseEngine
from edgekit.errors import GraphError, RunError
from edgekit.graph.file import save_graph
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.passes import optimize
from edgekit.specs import Precision

Arrays = dict[str, np.ndarray]


def engine_of(target: str, model: onnx.ModelProto, folder: Path) -> BaseEngine:
    pytest.importorskip({"cpu": "onnxruntime", "openvino": "openvino"}[target])
    onnx.save(model, folder / "model.onnx")
    save_graph(optimize(graph_from_onnx(folder / "model.onnx")), folder / "graph.onnx")
    library = backend(target)
    result = library.build(folder / "graph.onnx", folder, BuildOptions(precision=Precision.FP32, threads=1))
    return library.load(folder / result.engine, threads=1)


def same(expected: np.ndarray, got: np.ndarray) -> bool:
    if (expected.shape, expected.dtype) != (got.shape, got.dtype):
        return False
    if expected.dtype.kind == "f":
        return bool(np.isclose(expected, got, rtol=1e-5, atol=1e-6, equal_nan=True).all())
    return bool((expected == got).all())


def name_of(graphs: list[Graph], output: str) -> str:
    return graphs[int(output[1 : output.index(".")])].name


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("group", edge_graphs())
def test_engines_are_right_at_the_edges(target: str, group: str, tmp_path: Path) -> None:
    graphs = edge_graphs()[group]
    model, feeds = merged(graphs), feeds_of(graphs)
    got = engine_of(target, model, tmp_path).run(feeds)
    expected = original_outputs(model, feeds)
    assert [name_of(graphs, name) for name in expected if not same(expected[name], got[name])] == []


BRANCHES = """<ir_version: 9, opset_import: ["" : 20]> g (bool c, float[4] x, uint8[4] n) => (float[4] y, uint8[4] m)
    <float zero = {0.0}, uint8[4] one = {1, 1, 1, 1}> {
    y, m = If (c) <then_branch = then () => (float[4] p, uint8[4] q) { p = Max (x, zero) q = Add (n, one) },
        else_branch = other () => (float[4] r, uint8[4] s) { r = Neg (x) s = Identity (n) }> }"""


def test_branches_are_right_too(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(BRANCHES)
    feeds = {
        "c": np.asarray(True),
        "x": np.asarray([np.nan, -1, 2, 0], np.float32),
        "n": np.asarray([255, 0, 1, 254], np.uint8),
    }
    got, expected = engine_of("openvino", model, tmp_path).run(feeds), original_outputs(model, feeds)
    assert {name: same(expected[name], got[name]) for name in expected} == {"y": True, "m": True}


def single_node(operator: str, kind: int, constant: np.ndarray, **attributes: object) -> onnx.ModelProto:
    return helper.make_model(
        helper.make_graph(
            [helper.make_node(operator, ["x", "k"], ["y"], "it", **attributes)],
            "g",
            [helper.make_tensor_value_info("x", kind, [3])],
            [helper.make_tensor_value_info("y", kind, [3])],
            [onnx.numpy_helper.from_array(constant, "k")],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=9,
    )


def test_openvino_names_a_shift_of_more_bits_than_it_has(tmp_path: Path) -> None:
    model = single_node("BitShift", TensorProto.UINT32, np.asarray([3], np.uint32), direction="LEFT")
    with pytest.raises(GraphError, match="node 'it': this target cannot compute BitShift of uint32"):
        engine_of("openvino", model, tmp_path)


def test_openvino_names_a_constant_that_it_would_cut(tmp_path: Path) -> None:
    model = single_node("Add", TensorProto.INT64, np.asarray([2**40]))
    with pytest.raises(
        GraphError, match=r"node 'it' \(Add\): this target computes integers in 32 bits: .* 1099511627776"
    ):
        engine_of("openvino", model, tmp_path)


def test_openvino_takes_the_largest_integer_as_a_limit(tmp_path: Path) -> None:
    model = single_node("Min", TensorProto.INT64, np.asarray([2**63 - 1]))
    x = np.asarray([5, -5, 2**31 - 1])
    np.testing.assert_array_equal(engine_of("openvino", model, tmp_path).run({"x": x})["y"], x)


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1])
def test_openvino_refuses_an_input_that_it_would_cut(number: int, tmp_path: Path) -> None:
    engine = engine_of("openvino", single_node("Add", TensorProto.INT64, np.asarray([1])), tmp_path)
    with pytest.raises(RunError, match=f"input 'x': OpenVINO computes integers in 32 bits: .* got {number}"):
        engine.run({"x": np.asarray([1, number, 2])})


def test_openvino_names_indices_by_columns(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 20]> g (float[1, 1, 4, 4] x)
        => (float[1, 1, 2, 2] y, int64[1, 1, 2, 2] i) {
        y, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2], storage_order = 1> (x) }"""
    with pytest.raises(GraphError, match="storage_order=1"):
        engine_of("openvino", onnx.parser.parse_model(text), tmp_path)


def test_many_floats_are_selected_without_an_order_of_equal_ones(tmp_path: Path) -> None:
    """Sorting them stably takes 50 times as long (`edgekit.engine.openvino.stable_top_k`); the values are right."""
    text = """<ir_version: 9, opset_import: ["" : 20]> g (float[1, 8400] x) => (float[1, 300] y, int64[1, 300] i)
        <int64[1] k = {300}> { s = OPERATOR (x) y, i = TopK (s, k) }"""
    feeds = {"x": np.random.default_rng(0).integers(0, 5000, (1, 8400)).astype(np.float32)}
    for operator, sorted_by_index in (("Neg", False), ("Round", True)):
        model = onnx.parser.parse_model(text.replace("OPERATOR", operator))
        got, expected = engine_of("openvino", model, tmp_path).run(feeds), original_outputs(model, feeds)
        np.testing.assert_array_equal(got["y"], expected["y"])
        np.testing.assert_array_equal(np.abs(feeds["x"][0, got["i"][0]]), np.abs(expected["y"][0]))
        assert np.array_equal(got["i"], expected["i"]) is sorted_by_index
