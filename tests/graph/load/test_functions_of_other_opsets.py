"""Files with functions whose operators mean something else in the graph's opset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgekit.errors import GraphError
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.original import OnnxOriginal
from edgekit.graph.passes import optimize

X = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)


def constant(name: str, numbers: np.ndarray) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(numbers))


def on_axes(operator: str) -> NodeProto:
    """A node whose axes are an attribute of the function."""
    node = helper.make_node(operator, ["x"], ["y"])
    node.attribute.append(
        onnx.AttributeProto(name="axes", ref_attr_name="axes", type=onnx.AttributeProto.AttributeType.INTS)
    )
    return node


SCALES = constant("s", np.asarray([1, 1, 2, 1.5], np.float32))
CASES = {
    "Softmax": ([helper.make_node("Softmax", ["x"], ["y"])], 11, 18),
    "Softmax of a newer opset": ([helper.make_node("Softmax", ["x"], ["y"])], 18, 8),
    "Hardmax": ([helper.make_node("Hardmax", ["x"], ["y"], axis=1)], 12, 21),
    "Clip": ([helper.make_node("Clip", ["x"], ["y"], min=-0.5)], 10, 18),
    "Resize": ([SCALES, helper.make_node("Resize", ["x", "s"], ["y"], mode="linear")], 10, 18),
    "Upsample": ([SCALES, helper.make_node("Upsample", ["x", "s"], ["y"], mode="nearest")], 9, 20),
    "ReduceMax": ([constant("a", np.asarray([1])), helper.make_node("ReduceMax", ["x", "a"], ["y"])], 18, 11),
    "ReduceMean by an attribute": ([on_axes("ReduceMean")], 11, 18),
    "Gelu": ([helper.make_node("Gelu", ["x"], ["y"])], 20, 17),
    "RMSNormalization": (
        [constant("w", np.ones(5, np.float32)), helper.make_node("RMSNormalization", ["x", "w"], ["y"])],
        23,
        13,
    ),
}


def with_function(nodes: Sequence[NodeProto], own: int, opset: int) -> onnx.ModelProto:
    named = any(attribute.ref_attr_name for node in nodes for attribute in node.attribute)
    function = helper.make_function(
        "own", "Part", ["x"], ["y"], nodes, [helper.make_opsetid("", own)], attributes=["axes"] if named else []
    )
    call = helper.make_node("Part", ["x"], ["z"], "call", domain="own", **({"axes": [1, 2]} if named else {}))
    graph = helper.make_graph(
        [call, helper.make_node("Neg", ["z"], ["y"], "last")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)


def expected_output(nodes: Sequence[NodeProto], own: int) -> np.ndarray:
    """The output of the same nodes in a graph of the function's opset, in ONNX Runtime without optimizations."""
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    for attribute in (attribute for node in copies for attribute in node.attribute if attribute.ref_attr_name):
        attribute.CopyFrom(helper.make_attribute("axes", [1, 2]))
    graph = helper.make_graph(
        copies,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", own)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": X})
    return -np.asarray(output)


@pytest.mark.parametrize("case", CASES)
def test_each_node_has_the_meaning_of_its_functions_opset(case: str, tmp_path: Path) -> None:
    nodes, own, opset = CASES[case]
    onnx.save(with_function(nodes, own, opset), tmp_path / "m.onnx")
    expected = expected_output(nodes, own)
    graph = optimize(graph_from_onnx(tmp_path / "m.onnx"))
    assert not graph.functions and graph.opset_imports[""] == max(20, own, opset)
    np.testing.assert_allclose(Evaluator(graph).run({"x": X})["y"], expected, rtol=1e-5, atol=1e-6)
    (original,) = OnnxOriginal(tmp_path / "m.onnx").run([{"x": X}])
    np.testing.assert_allclose(original["y"], expected, rtol=1e-5, atol=1e-6)


def test_a_node_that_cannot_be_upgraded_is_named_with_the_way_on(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["x", "x"], ["y"], "sum", broadcast=1)
    onnx.save(with_function([node], 6, 18), tmp_path / "m.onnx")
    with pytest.raises(GraphError, match=r"node '.*sum': Add of opset 6 cannot be upgraded\n.*opset 7 or newer"):
        graph_from_onnx(tmp_path / "m.onnx")
