"""ONNX Runtime's integer operators as float ones between Q/DQ pairs: ONNX Runtime itself computes the right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgekit
from edgekit.lower.qlinear_as_qdq import QLinearAsQdq
from edgekit.lower.rewriting import lower

RANDOM = np.random.default_rng(2)
SHAPE = (1, 4, 6, 6)
CONSTANTS = {
    "xs": np.float32(0.03),
    "xz": np.uint8(128),
    "ys": np.float32(0.04),
    "yz": np.uint8(100),
    "w": RANDOM.integers(-120, 120, (4, 4, 3, 3)).astype(np.int8),
    "ws": np.asarray([0.004, 0.002, 0.003, 0.005], np.float32),
    "wz": np.zeros(4, np.int8),
    "b": RANDOM.integers(-3000, 3000, 4).astype(np.int32),
    "m": RANDOM.integers(-120, 120, (6, 4)).astype(np.int8),
    "mask": np.asarray([True, False, True, True, False, True]),
    "flat": np.asarray([4, -1]),
}
X, Y = ["q", "xs", "xz"], ["ys", "yz"]
CASES = {
    "QLinearConv": (X + ["w", "ws", "wz"] + Y + ["b"], {"pads": [1, 1, 1, 1]}),
    "QLinearMatMul": (X + ["m", "ws", "wz"] + Y, {}),
    "QLinearAdd": (X + X + Y, {}),
    "QLinearMul": (X + X + Y, {}),
    "QLinearSigmoid": (X + Y, {}),
    "QLinearLeakyRelu": (X + Y, {"alpha": 0.2}),
    "QLinearAveragePool": (X + Y, {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "QLinearGlobalAveragePool": (X + Y, {}),
    "QLinearSoftmax": (X + Y, {"axis": 1, "opset": 13}),
    "QLinearConcat": (Y + X + X, {"axis": 1}),
    "QLinearWhere": (["mask"] + X + X + Y, {}),
    "QGemm": (["f", "xs", "xz", "g", "ws", "wz", "b"] + Y, {"transB": 1, "alpha": 0.5}),
}


def model_of(operator: str) -> onnx.ModelProto:
    inputs, attributes = CASES[operator]
    domain = "" if operator in ("QLinearConv", "QLinearMatMul") else "com.microsoft"
    constants = {**CONSTANTS, "g": RANDOM.integers(-120, 120, (4, 36)).astype(np.int8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        helper.make_node("Reshape", ["q", "flat"], ["f"]),
        helper.make_node(operator, inputs, ["r"], name="layer", domain=domain, **attributes),
        helper.make_node("DequantizeLinear", ["r", "ys", "yz"], ["y"]),
    ]
    used = {name for node in nodes for name in node.input}
    if "f" not in inputs:
        nodes.pop(1)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items() if name in used],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


def inputs() -> list[np.ndarray]:
    """Within the range of the integers, and far beyond it."""
    return [(RANDOM.standard_normal(SHAPE) * scale).astype(np.float32) for scale in (0.3, 1.0, 5.0)]


@pytest.mark.parametrize("operator", CASES)
def test_the_float_form_computes_the_same_up_to_one_step(operator: str) -> None:
    model = model_of(operator)
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    assert lower(graph, [QLinearAsQdq()])
    types = {node.op_type for node in graph.graph}
    assert operator not in types and types >= {"QuantizeLinear", "DequantizeLinear"}
    assert sum(node.name == "layer" for node in graph.graph) == 1
    for x in inputs():
        np.testing.assert_allclose(run(ir.to_proto(graph), x), run(model, x), atol=0.041)


@pytest.mark.parametrize("operator", sorted(CASES))
def test_openvino_computes_what_onnxruntime_does(operator: str, tmp_path: Path) -> None:
    model = model_of(operator)
    onnx.save(model, tmp_path / "m.onnx")
    precision = "int8" if operator in ("QLinearConv", "QLinearMatMul", "QGemm") else "fp32"
    engine = edgekit.build(
        tmp_path / "m.onnx",
        precision=precision,
        target="openvino",
        output=tmp_path / "engine",
        profile=False,
        progress=False,
    )
    with edgekit.load(engine) as session:
        for x in inputs():
            np.testing.assert_allclose(session.run({"x": x})["y"], run(model, x), atol=0.041)


def test_a_graph_for_tensorrt_has_q_dq_pairs(tmp_path: Path) -> None:
    model = model_of("QLinearConv")
    for tensor in model.graph.initializer:
        if tensor.name in ("xz", "yz"):  # TensorRT takes no others
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(0, np.int8), tensor.name))
    onnx.save(model, tmp_path / "m.onnx")
    bundle = edgekit.build(
        tmp_path / "m.onnx", target="tensorrt", graph_only=True, output=tmp_path / "bundle", progress=False
    )
    types = [node.op_type for node in onnx.load(bundle / "graph.onnx").graph.node]
    assert types.count("Conv") == 1 and "QLinearConv" not in types


def test_a_zero_point_that_is_left_out_has_the_type_of_the_output() -> None:
    text = """<ir_version: 9, opset_import: ["" : 20, "com.microsoft" : 1]>
    g (int8[2, 4] x) => (int8[2, 4] y) <float s = {0.1}> { y = com.microsoft.QLinearSigmoid (x, s, , s) }"""
    graph = ir.from_proto(onnx.parser.parse_model(text))
    assert lower(graph, [QLinearAsQdq()])
    assert graph.graph.outputs[0].dtype == ir.DataType.INT8
    x = np.asarray([[-128, -20, -5, 0], [3, 10, 60, 127]], np.int8)
    expected = np.rint(1 / (1 + np.exp(-x.astype(np.float64) * 0.1)) / 0.1).astype(np.int8)
    np.testing.assert_array_equal(run(ir.to_proto(graph), x), expected)
