"""Sparse weights, which ONNX Runtime reads too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgekit.errors import GraphError
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.load.onnx_file import graph_from_onnx

X = np.arange(8, dtype=np.float32).reshape(2, 4)


def sparse(values: list[float], indices: list[int], of: list[int], dims: list[int]) -> onnx.SparseTensorProto:
    numbers = helper.make_tensor("w", TensorProto.FLOAT, [len(values)], values)
    return helper.make_sparse_tensor(numbers, helper.make_tensor("i", TensorProto.INT64, of, indices), dims)


def saved(weight: onnx.SparseTensorProto, file: Path, *, constant: bool = False) -> Path:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    if constant:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=weight))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        sparse_initializer=[] if constant else [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    return file


@pytest.mark.parametrize("constant", [False, True], ids=["initializer", "Constant"])
@pytest.mark.parametrize(("indices", "of"), [([0, 5, 9], [3]), ([0, 0, 1, 2, 3, 0], [3, 2])], ids=["flat", "by axis"])
def test_sparse_weights_are_those_of_onnxruntime(
    indices: list[int], of: list[int], constant: bool, tmp_path: Path
) -> None:
    weight = sparse([1.0, -2.0, 3.0], indices, of, [4, 3])
    file = saved(weight, tmp_path / "m.onnx", constant=constant)
    expected = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]
    np.testing.assert_array_equal(Evaluator(graph_from_onnx(file)).run({"x": X})["y"], expected)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (sparse([1.0], [12], [1], [4, 3]), "expected an index in the shape"),
        (sparse([1.0], [-1], [1], [4, 3]), "expected an index in the shape"),
        (sparse([1.0], [4, 0], [1, 2], [4, 3]), "expected an index in the shape"),
        (sparse([1.0, 2.0], [1], [1], [4, 3]), "expected an index in the shape|not a valid graph"),
        (sparse([1.0], [0], [1], [1 << 20, 1 << 20]), "less than 2 GiB"),
        (sparse([1.0], [0], [1], [-4, 3]), "expected a shape of 0 or more"),
    ],
)
def test_a_sparse_weight_that_is_not_what_it_declares_is_refused(
    weight: onnx.SparseTensorProto, message: str, tmp_path: Path
) -> None:
    with pytest.raises(GraphError, match=message):
        graph_from_onnx(saved(weight, tmp_path / "m.onnx"))
