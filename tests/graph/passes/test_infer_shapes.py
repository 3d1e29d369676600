"""Shape inference of graphs whose nodes have many inputs."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.graph.load.onnx_file import graph_from_onnx


@pytest.mark.parametrize("operator", ["Concat", "Sum", "Max"])
def test_a_node_may_have_hundreds_of_inputs(operator: str, tmp_path: Path) -> None:
    count = 300
    nodes = [helper.make_node("Neg" if i % 2 else "Abs", ["x"], [f"part{i}"]) for i in range(count)]
    attributes = {"axis": 1} if operator == "Concat" else {}
    nodes.append(helper.make_node(operator, [f"part{i}" for i in range(count)], ["y"], **attributes))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    path = tmp_path / "wide.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    shape = graph_from_onnx(path).graph.outputs[0].shape
    assert shape is not None and list(shape) == [1, 2 * count if operator == "Concat" else 2, 3]
