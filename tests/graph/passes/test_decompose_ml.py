"""Linear models of ``ai.onnx.ml`` become ONNX's own operators; ONNX Runtime computes the right values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.graph.evaluator import Evaluator
from edgekit.graph.load.onnx_file import graph_from_onnx

DRAW = np.random.default_rng(0)
X = DRAW.standard_normal((5, 4)).astype(np.float32)
X[2] = 0.0
TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}
COEFFICIENTS = DRAW.standard_normal(12).astype(np.float32).tolist()
LABELS = [7, 3, 5]


def node_of(
    operator: str, outputs: Sequence[str] = ("y",), inputs: Sequence[str] = ("x",), **how: Any
) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, outputs, name=f"{outputs[-1]}_node", domain="ai.onnx.ml", **how)


NODES = {
    "Scaler": node_of("Scaler", offset=[0.5, -1.0, 2.0, 0.0], scale=[2.0, 0.1, 3.0, -1.0]),
    "Scaler of one number": node_of("Scaler", offset=[0.5], scale=[2.0]),
    "LinearRegressor": node_of("LinearRegressor", coefficients=COEFFICIENTS, intercepts=[1.0, 2.0, 3.0], targets=3),
    "LinearRegressor without intercepts": node_of("LinearRegressor", coefficients=COEFFICIENTS[:4]),
    "Normalizer L1": node_of("Normalizer", norm="L1"),
    "Normalizer L2": node_of("Normalizer", norm="L2"),
    "Binarizer": node_of("Binarizer", threshold=0.25),
    "ArrayFeatureExtractor": node_of("ArrayFeatureExtractor", inputs=["x", "places"]),
} | {
    f"LinearClassifier {transform}": node_of(
        "LinearClassifier",
        ["label", "y"],
        coefficients=COEFFICIENTS,
        intercepts=[0.1, 0.2, 0.3],
        classlabels_ints=LABELS,
        post_transform=transform,
    )
    for transform in ("NONE", "SOFTMAX", "LOGISTIC")
}
OTHERS = {
    "one column of two classes": node_of(
        "LinearClassifier",
        ["label", "y"],
        coefficients=COEFFICIENTS[:4],
        intercepts=[0.1],
        classlabels_ints=[0, 1],
        post_transform="LOGISTIC",
    ),
    "another transform": node_of("LinearRegressor", coefficients=COEFFICIENTS[:4], post_transform="PROBIT"),
    "the largest": node_of("Normalizer", norm="MAX"),
}


def saved(path: Path, node: onnx.NodeProto, x: np.ndarray) -> Path:
    value = helper.make_tensor_value_info
    same = node.op_type == "ArrayFeatureExtractor"
    types = {"label": TensorProto.INT64, "y": TYPES[x.dtype] if same else TensorProto.FLOAT}
    outputs = [value(name, types[name], None) for name in node.output]
    places = numpy_helper.from_array(np.asarray([2, 0, 3]), "places")
    weights = [places] if "places" in node.input else []
    graph = helper.make_graph([node], "g", [value("x", TYPES[x.dtype], list(x.shape))], outputs, weights)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def by_onnxruntime(path: Path, x: np.ndarray) -> Mapping[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


@pytest.mark.parametrize(
    ("form", "dtype"),
    [(form, np.float32) for form in NODES]
    + [(form, np.int64) for form in NODES if not form.startswith(("LinearRegressor", "Binarizer"))],
)
def test_the_operators_of_tensors_compute_the_same(form: str, dtype: type, tmp_path: Path) -> None:
    x = (X if dtype is np.float32 else 3 * X).astype(dtype)
    path = saved(tmp_path / "ml.onnx", NODES[form], x)
    expected = by_onnxruntime(path, x)
    graph = graph_from_onnx(path)
    assert {node.domain for node in graph.graph} == {""}
    got = Evaluator(graph).run({"x": x})
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape)
        np.testing.assert_allclose(got[name], array, atol=1e-5)


@pytest.mark.parametrize("form", OTHERS)
def test_forms_that_depend_on_onnxruntime_stay(form: str, tmp_path: Path) -> None:
    graph = graph_from_onnx(saved(tmp_path / "ml.onnx", OTHERS[form], X))
    assert [node.domain for node in graph.graph] == ["ai.onnx.ml"]


def test_an_element_of_a_vector_is_selected_behind_another_operator_of_the_domain(tmp_path: Path) -> None:
    """So skl2onnx writes the label of a neural network: ArgMax, and the names of the classes by its index."""
    nodes = [
        node_of("Scaler", ["scaled"], offset=[0.5], scale=[2.0]),
        helper.make_node("Identity", ["scaled"], ["kept"]),
        node_of("Normalizer", ["rows"], ["kept"], norm="L2"),
        helper.make_node("ArgMax", ["rows"], ["best"], axis=1, keepdims=0),
        node_of("ArrayFeatureExtractor", ["y"], ["classes", "best"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [5, 4])],
        [value("y", TensorProto.INT64, None)],
        [numpy_helper.from_array(np.asarray([30, 10, 20, 40]), "classes")],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    path = tmp_path / "network.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    expected = by_onnxruntime(path, X)["y"]
    loaded = graph_from_onnx(path)
    assert {node.domain for node in loaded.graph} == {""}
    got = Evaluator(loaded).run({"x": X})["y"]
    assert got.shape == expected.shape == (1, 5)
    np.testing.assert_array_equal(got, expected)


def test_a_linear_model_is_a_product_of_its_name(tmp_path: Path) -> None:
    graph = graph_from_onnx(saved(tmp_path / "ml.onnx", NODES["LinearRegressor"], X))
    assert [node.name for node in graph.graph if node.op_type == "MatMul"] == ["y_node"]
