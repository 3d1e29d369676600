"""Shape inference: graphs whose nodes have many inputs, and all operators that ONNX has cases of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

from edgekit.errors import GraphError
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.passes.infer_shapes import InferShapes


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


def _agrees(shape: ir.Shape | None, array: np.ndarray) -> bool:
    known = [size if isinstance(size, int) else None for size in shape] if shape is not None else [None] * array.ndim
    return len(known) == array.ndim and all(size in (None, real) for size, real in zip(known, array.shape, strict=True))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # ONNX's cases of casts overflow
def test_shapes_of_onnx_s_own_cases_are_those_of_their_outputs(tmp_path: Path) -> None:
    """Sizes come from integers: as constants they are read, and what shape inference makes of them has to be right."""
    compared, wrong = 0, []
    for case in collect_testcases():
        inputs, outputs = case.data_sets[0] if case.model is not None and case.data_sets else ((), ())
        integers = [isinstance(array, np.ndarray) and array.dtype in (np.int32, np.int64) for array in inputs]
        if not any(integers) or all(integers):
            continue
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        constants = [(v, a) for v, a, known in zip(case.model.graph.input, inputs, integers, strict=True) if known]
        model.graph.initializer.extend(numpy_helper.from_array(array, value.name) for value, array in constants)
        for index in reversed([index for index, known in enumerate(integers) if known]):
            del model.graph.input[index]
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        path = tmp_path / "case.onnx"
        path.write_bytes(model.SerializeToString())
        try:
            graph = graph_from_onnx(path)
        except GraphError:  # strings, sequences, operators of training
            continue
        if any(isinstance(array, list) for array in outputs):
            continue
        arrays = [np.asarray(array) for array in outputs]  # some are numbers
        compared += 1
        if not all(map(_agrees, (value.shape for value in graph.graph.outputs), arrays)):
            wrong.append(case.name)
    assert not wrong
    assert compared > 100


def test_two_branches_may_have_values_of_one_name_and_other_shapes() -> None:
    text = """<ir_version: 9, opset_import: ["" : 20]>
    g (float[2, 3] x, bool c) => (float[n, m] y) {
        y = If (c) <
            then_branch = a () => (float[p, q] t) { t = Concat <axis = 0> (x, x) },
            else_branch = b () => (float[r, s] e) { t = Concat <axis = 1> (x, x)  e = Neg (t) }
        > }"""
    graph = ir.from_proto(onnx.parser.parse_model(text))
    for value in (output for node in graph.graph.all_nodes() for output in node.outputs):
        value.shape = None
    InferShapes()(graph)
    branches = graph.graph[0].attributes
    shapes = {name: [list(node.outputs[0].shape) for node in branches[name].as_graph()] for name in branches}
    assert shapes == {"then_branch": [[4, 3]], "else_branch": [[2, 6], [2, 6]]}


def test_values_behind_operators_of_onnxruntime_have_types() -> None:
    text = """<ir_version: 9, opset_import: ["" : 20, "com.microsoft" : 1]>
    g (float[2, 6, 16] x, int32[2, 6] mask) => (float[n, m, k] y) <float[16, 8] w> {
        a, keys = com.microsoft.MultiHeadAttention <num_heads = 4> (x, x, x, , mask)
        b = Relu (a)  y = MatMul (b, w)
        unknown = com.microsoft.NoSuchOperator (x) }"""
    graph = ir.from_proto(onnx.parser.parse_model(text))
    InferShapes()(graph)
    types = {value.name: value.dtype for node in graph.graph for value in node.outputs}
    known = dict.fromkeys(("a", "keys", "b", "y"), ir.DataType.FLOAT)
    assert types == {**known, "unknown": None}
