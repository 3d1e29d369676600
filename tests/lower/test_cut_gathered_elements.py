"""GatherElements whose data is larger than its indices on other axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_graphs import rewritten, run_unfused, stays

from edgekit.engine.backend import BuildOptions, backend
from edgekit.lower.cut_gathered_elements import CutGatheredElements
from edgekit.specs import Precision


def model(data: tuple[int, ...], indices: tuple[int, ...], axis: int) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("GatherElements", ["x", "i"], ["y"], "gather", axis=axis)],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, data),
            helper.make_tensor_value_info("i", TensorProto.INT64, indices),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, indices)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


CASES = {
    "columns": ((1, 9, 8), (1, 3, 4), 1),
    "rows before": ((5, 9, 8), (2, 9, 4), 1),
    "a negative axis": ((4, 6, 7), (2, 3, 7), -1),
}


def feeds(data: tuple[int, ...], indices: tuple[int, ...], axis: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "x": random.random(data).astype(np.float32),
        "i": random.integers(0, data[axis], indices).astype(np.int64),
    }


@pytest.mark.parametrize("case", CASES)
def test_what_is_gathered_stays(case: str) -> None:
    before = model(*CASES[case])
    after, modified = rewritten(before, CutGatheredElements())
    assert modified
    assert {node.op_type for node in after.graph.node} == {"Gather", "GatherElements"}
    given = feeds(*CASES[case])
    for a, b in zip(run_unfused(before, given), run_unfused(after, given), strict=True):
        np.testing.assert_array_equal(a, b)


SLICED = """<ir_version: 8, opset_import: ["" : 17]> g (float[1, 9, 8] x, int64[1, 3, 4] i) => (float[1, 3, 4] y)
    <int64[1] starts = {0}, int64[1] ends = {4}, int64[1] axes = {2}> {
    s = Slice (x, starts, ends, axes) y = GatherElements <axis = 1> (s, i) }"""


def test_a_slice_that_openvino_would_remove_is_replaced(tmp_path: Path) -> None:
    before = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(SLICED))
    after, modified = rewritten(before, CutGatheredElements())
    assert modified and [node.op_type for node in after.graph.node] == ["Gather", "GatherElements"]
    given = feeds(*CASES["columns"])
    expected = run_unfused(before, given)[0]
    np.testing.assert_array_equal(run_unfused(after, given)[0], expected)
    np.testing.assert_array_equal(by_openvino(before, given, tmp_path), expected)


@pytest.mark.parametrize("shapes", [((1, 9, 4), (1, 3, 4), 1), ((9,), (20,), 0)])
def test_what_openvino_takes_stays_as_it_is(shapes: tuple[tuple[int, ...], tuple[int, ...], int]) -> None:
    assert stays(model(*shapes), CutGatheredElements())


@pytest.mark.parametrize("case", CASES)
def test_an_engine_of_openvino_gathers_the_same(case: str, tmp_path: Path) -> None:
    before, given = model(*CASES[case]), feeds(*CASES[case])
    np.testing.assert_array_equal(by_openvino(before, given, tmp_path), run_unfused(before, given)[0])


def by_openvino(graph: onnx.ModelProto, given: dict[str, np.ndarray], folder: Path) -> np.ndarray:
    pytest.importorskip("openvino")
    onnx.save(graph, folder / "graph.onnx")
    result = backend("openvino").build(folder / "graph.onnx", folder, BuildOptions(precision=Precision.FP32))
    engine = backend("openvino").load(folder / result.engine, threads=1)
    try:
        return np.asarray(engine.run(given)["y"])
    finally:
        engine.close()
