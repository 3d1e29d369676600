"""Attributes that name an element type."""

from pathlib import Path

import onnx
import pytest
from onnx import helper

from edgekit.errors import GraphError
from edgekit.graph.load.onnx_file import graph_from_onnx


def _saved(folder: Path, node: onnx.NodeProto, opset: int = 21) -> Path:
    image, out = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 2]) for name in ("x", "y"))
    ends = [helper.make_node("Identity", ["x"], ["y"])] if "y" not in node.output else []
    graph = helper.make_graph([node, *ends], "g", [image], [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize("number", [0, -1, 99, 1 << 40])
@pytest.mark.parametrize(
    ("operator", "inputs", "attribute"),
    [("Cast", ["x"], "to"), ("EyeLike", ["x"], "dtype"), ("RandomNormalLike", ["x"], "dtype")],
)
def test_a_type_that_onnx_does_not_have_is_refused(
    operator: str, inputs: list[str], attribute: str, number: int, tmp_path: Path
) -> None:
    node = helper.make_node(operator, inputs, ["t"], name="n", **{attribute: number})
    with pytest.raises(
        GraphError, match=rf"{operator} 'n': expected a type .* for '{attribute}', got the number {number}"
    ):
        graph_from_onnx(_saved(tmp_path, node))


def test_types_of_onnx_are_read(tmp_path: Path) -> None:
    graph = graph_from_onnx(_saved(tmp_path, helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.FLOAT)))
    assert [node.op_type for node in graph.graph] == ["Cast"]
