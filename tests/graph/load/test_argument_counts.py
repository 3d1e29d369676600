"""How many inputs and outputs nodes have, beside ONNX's checker."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.errors import GraphError
from edgekit.graph.load.argument_counts import require_argument_counts

PATH = Path("m.onnx")


def model(nodes: list[onnx.NodeProto], opset: int = 17) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize(
    ("operator", "inputs", "outputs", "words"),
    [
        ("Relu", ["x"], [], "Relu of opset 17: expected 1 output, got 0"),
        ("Relu", ["x", "x"], ["y"], "expected 1 input, got 2"),
        ("Add", ["x"], ["y"], "expected 2 inputs, got 1"),
        ("Concat", [], ["y"], "expected 1 or more inputs, got 0"),
        ("Dropout", ["x"] * 4, ["y"], "expected 1 to 3 inputs, got 4"),
    ],
)
def test_wrong_counts_are_named(operator: str, inputs: list[str], outputs: list[str], words: str) -> None:
    attributes = {"axis": 0} if operator == "Concat" else {}
    made = model([helper.make_node(operator, inputs, outputs, "n", **attributes)])
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(made)
    with pytest.raises(GraphError, match=words):
        require_argument_counts(made, PATH)


def test_nodes_in_bodies_and_functions_are_checked() -> None:
    wrong = helper.make_node("Neg", [], ["r"], "wrong")
    body = helper.make_graph([wrong], "b", [], [helper.make_tensor_value_info("r", TensorProto.FLOAT, [2])])
    within = model([helper.make_node("If", ["x"], ["y"], "if", then_branch=body, else_branch=body)])
    called = model([helper.make_node("F", ["x"], ["y"], "call", domain="own")])
    called.functions.append(helper.make_function("own", "F", ["a"], ["r"], [wrong], [helper.make_opsetid("", 13)]))
    for made, opset in ((within, 17), (called, 13)):
        with pytest.raises(GraphError, match=f"node 'wrong': Neg of opset {opset}: expected 1 input, got 0"):
            require_argument_counts(made, PATH)


def test_each_opset_has_its_own_counts() -> None:
    """The limits of Clip are inputs since opset 11; operators of others are left alone."""
    limited = helper.make_node("Clip", ["x", "x", "x"], ["y"], "clip")
    require_argument_counts(model([limited], 11), PATH)
    with pytest.raises(GraphError, match="Clip of opset 10: expected 1 input, got 3"):
        require_argument_counts(model([limited], 10), PATH)
    require_argument_counts(model([helper.make_node("Own", [], [], domain="own")]), PATH)
    require_argument_counts(model([helper.make_node("NoOperator", [], [])]), PATH)
