from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import GraphError
from edgekit.graph.load.onnx_file import graph_from_onnx

VALUE = helper.make_tensor_value_info


def saved(folder: Path, condition: list[onnx.NodeProto], inputs: list[str], turns: int) -> Path:
    """A Loop of Relu; ``condition`` are the nodes of its body that make the next condition."""
    body = helper.make_graph(
        [*condition, helper.make_node("Relu", ["v"], ["w"])],
        "body",
        [VALUE("i", TensorProto.INT64, []), VALUE("before", TensorProto.BOOL, []), VALUE("v", TensorProto.FLOAT, None)],
        [VALUE("next", TensorProto.BOOL, []), VALUE("w", TensorProto.FLOAT, None)],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", [*inputs, "x"], ["y"], name="n", body=body)],
        "g",
        [VALUE("x", TensorProto.FLOAT, [1, 3]), VALUE("go", TensorProto.BOOL, [])],
        [VALUE("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.array(turns), "turns"), numpy_helper.from_array(np.array(True), "true")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


KEPT = [helper.make_node("Identity", ["before"], ["middle"]), helper.make_node("Identity", ["middle"], ["next"])]
TRUE = [helper.make_node("Constant", [], ["next"], value=numpy_helper.from_array(np.array(True)))]
COMPUTED = [
    helper.make_node("Constant", [], ["limit"], value=numpy_helper.from_array(np.array(5))),
    helper.make_node("Less", ["i", "limit"], ["next"]),
]


@pytest.mark.parametrize("condition", [KEPT, TRUE], ids=["kept", "true"])
@pytest.mark.parametrize("inputs", [["turns", "true"], ["turns", ""], ["", "true"]])
def test_a_loop_without_end_is_named(condition: list[onnx.NodeProto], inputs: list[str], tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="Loop 'n': expected a condition that can end it, or at most 100,"):
        graph_from_onnx(saved(tmp_path, condition, inputs, turns=2**63 - 1))


@pytest.mark.parametrize(
    ("condition", "inputs", "turns"),
    [(COMPUTED, ["turns", "true"], 2**63 - 1), (KEPT, ["turns", "go"], 2**63 - 1), (KEPT, ["turns", "true"], 1000)],
    ids=["computed", "input", "few"],
)
def test_a_loop_that_can_end_is_read(
    condition: list[onnx.NodeProto], inputs: list[str], turns: int, tmp_path: Path
) -> None:
    assert [node.op_type for node in graph_from_onnx(saved(tmp_path, condition, inputs, turns)).graph] == ["Loop"]
