"""Gather of one element behind a layer."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_graphs import rewritten, run_unfused, stays

from edgekit.engine.openvino.backend import _require_shapes
from edgekit.errors import BuildError
from edgekit.lower.gather_one_after_product import GatherOneAfterProduct

WEIGHT = np.random.default_rng(0).standard_normal((2, 3, 2)).astype(np.float32)


def model(index: np.ndarray, axis: int, operator: str = "Conv") -> onnx.ModelProto:
    shape = {0: [2, 5], 1: [1, 5], 2: [1, 2], -1: [1, 2]}[axis]
    shape = shape if index.ndim == 0 else None
    inputs = ["x", "w"] if operator == "Conv" else ["x"]
    graph = helper.make_graph(
        [
            helper.make_node(operator, inputs, ["c"], "layer"),
            helper.make_node("Gather", ["c", "i"], ["y"], "g", axis=axis),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(index, "i")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("number", [0, 1, -1])
@pytest.mark.parametrize("axis", [1, 2, -1])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_the_same_element_is_gathered(number: int, axis: int, dtype: type) -> None:
    made = model(np.array(number, dtype), axis)
    changed, modified = rewritten(made, GatherOneAfterProduct())
    assert modified
    assert [node.op_type for node in changed.graph.node] == ["Conv", "Gather", "Squeeze"]
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 3, 6)).astype(np.float32)}
    np.testing.assert_array_equal(run_unfused(changed, feeds)[0], run_unfused(made, feeds)[0])


@pytest.mark.parametrize(("index", "operator"), [(np.array([1]), "Conv"), (np.array(1), "Sin")])
def test_other_gathers_stay(index: np.ndarray, operator: str) -> None:
    assert stays(model(index, 2, operator), GatherOneAfterProduct())


def test_a_shape_that_changes_is_refused() -> None:
    ov = pytest.importorskip("openvino")

    def outputs(shape: list[int]) -> SimpleNamespace:
        return SimpleNamespace(outputs=[SimpleNamespace(any_name="y", partial_shape=ov.PartialShape(shape))])

    _require_shapes(outputs([-1, 2]), outputs([1, 2]))
    with pytest.raises(BuildError, match=r"output 'y': expected the shape \[1,2\], OpenVINO computes \[1,2,2\]"):
        _require_shapes(outputs([1, 2]), outputs([1, 2, 2]))
