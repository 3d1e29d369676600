from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.passes import InferShapes
from edgekit.graph.passes.decompose_contrib import DecomposeContrib
from edgekit.graph.stats import stats_from_graph


def random(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def contrib_model(operator, shape, weights, outputs=("y",), **attributes):
    node = helper.make_node(operator, ["x", *weights], list(outputs), name="op", domain="com.microsoft", **attributes)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["z"], ["x"]), node],
        "g",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs if name],
        [numpy_helper.from_array(array, name) for name, array in weights.items() if name],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


CONV = {"w": random(6, 4, 3, 3), "b": random(6)}
GEMM = {"w": random(4, 5), "c": random(5)}
NORM = {"s": random(2, 3, 8), "g": random(8), "b": random(8), "t": random(8)}

CASES = {
    "conv": ("FusedConv", [1, 4, 8, 8], {"w": CONV["w"]}, {"pads": [1] * 4, "kernel_shape": [3, 3]}),
    "conv relu": ("FusedConv", [1, 4, 8, 8], CONV, {"activation": "Relu"}),
    "conv sum": ("FusedConv", [1, 4, 8, 8], {**CONV, "z1": random(1, 6, 6, 6)}, {"activation": "Relu"}),
    "conv clip": ("FusedConv", [1, 4, 8, 8], CONV, {"activation": "Clip", "activation_params": [-0.5, 0.75]}),
    "conv leaky": ("FusedConv", [1, 4, 8, 8], CONV, {"activation": "LeakyRelu", "activation_params": [0.125]}),
    "conv hard": ("FusedConv", [1, 4, 8, 8], CONV, {"activation": "HardSigmoid", "activation_params": [0.1, 0.4]}),
    "gemm": ("FusedGemm", [3, 4], GEMM, {"activation": "Tanh", "alpha": 0.5, "beta": 2.0}),
    "gemm leaky": ("FusedGemm", [3, 4], GEMM, {"activation": "LeakyRelu", "activation_alpha": 0.25}),
    "matmul": ("FusedMatMul", [2, 4, 3], {"w": random(2, 5, 4)}, {"transA": 1, "transB": 1, "alpha": 0.25}),
    "turned": ("TransposeMatMul", [4, 3], {"w": random(5, 3)}, {"transB": 1}),
    "gelu": ("Gelu", [2, 6], {}, {}),
    "bias gelu": ("BiasGelu", [2, 6], {"b": random(6)}, {}),
    "fast gelu": ("FastGelu", [2, 6], {}, {}),
    "fast gelu bias": ("FastGelu", [2, 6], {"b": random(6)}, {}),
    "quick gelu": ("QuickGelu", [2, 6], {}, {"alpha": 1.5}),
    "skip norm": ("SkipLayerNormalization", [2, 3, 8], {k: NORM[k] for k in "sgb"}, {"epsilon": 1e-3}),
    "skip norm bias": ("SkipLayerNormalization", [2, 3, 8], NORM, {"epsilon": 1e-3}),
    "skip rms": ("SkipSimplifiedLayerNormalization", [2, 3, 8], {k: NORM[k] for k in "sgt"}, {"epsilon": 1e-3}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_parts_compute_what_the_fused_operator_does(run_in_onnxruntime, case):
    operator, shape, weights, attributes = CASES[case]
    outputs = ("y", "", "", "total") if operator.startswith("Skip") else ("y",)
    proto = contrib_model(operator, shape, weights, outputs, **attributes)
    x = 2 * random(*shape)
    expected = run_in_onnxruntime(proto, {"z": x})
    graph = ir.from_proto(proto)
    InferShapes()(graph)
    DecomposeContrib()(graph)
    InferShapes()(graph)
    assert not any(node.domain for node in graph.graph)
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    for got, reference in zip(run_in_onnxruntime(graph, {"z": x}), expected, strict=True):
        np.testing.assert_allclose(got, reference, rtol=2e-5, atol=2e-6)


def test_a_product_keeps_the_name_of_the_operator():
    graph = ir.from_proto(contrib_model("FusedConv", [1, 4, 8, 8], CONV, activation="Relu"))
    DecomposeContrib()(graph)
    assert [node.name for node in graph.graph if node.op_type == "Conv"] == ["op"]


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [("FusedMatMul", {"transBatchA": 1}), ("FusedConv", {"activation": "Swish"})],
)
def test_options_without_an_onnx_counterpart_stay(operator, attributes):
    weights = {"w": random(2, 2, 3, 3)}
    graph = ir.from_proto(contrib_model(operator, [2, 2, 3, 3], weights, **attributes))
    DecomposeContrib()(graph)
    assert [node.op_type for node in graph.graph] == ["Identity", operator]


@pytest.mark.parametrize("operator", ["FusedConv", "NhwcFusedConv", "CausalConvWithState", "DeformConv"])
def test_any_operator_with_conv_in_its_name_is_counted(operator):
    domain = "" if operator == "DeformConv" else "com.microsoft"
    proto = contrib_model(operator, [1, 4, 8, 8], {"w": CONV["w"]})
    proto.graph.node[1].domain = domain
    (layer,) = (layer for layer in stats_from_graph(ir.from_proto(proto)).layers if layer.name == "op")
    assert layer.parameters == 6 * 4 * 9


NORMS = {
    "rms": ("SimplifiedLayerNormalization <axis = -1, epsilon = 0.001> (x, last)", 20),
    "rms over two axes": ("SimplifiedLayerNormalization <axis = 1> (x, both)", 13),
    "layer norm before opset 17": ("LayerNormalization <epsilon = 0.001> (x, last, last)", 11),
}


@pytest.mark.parametrize("case", NORMS)
def test_norms_that_onnx_runtime_has_in_the_domain_of_onnx_are_replaced(run_in_onnxruntime, tmp_path, case):
    node, opset = NORMS[case]
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g (float[2, 3, 8] x) => (float[2, 3, 8] y) {{ n = {node}  y = MatMul (n, w) }}"""
    model = onnx.parser.parse_model(text)
    for name, shape in (("last", (8,)), ("both", (3, 8)), ("w", (8, 8))):
        model.graph.initializer.append(numpy_helper.from_array(random(*shape), name))
    onnx.save(model, tmp_path / "m.onnx")
    graph = graph_from_onnx(tmp_path / "m.onnx")
    assert {each.domain for each in graph.graph} == {""}
    x = {"x": random(2, 3, 8)}
    np.testing.assert_allclose(run_in_onnxruntime(ir.to_proto(graph), x)[0], run_in_onnxruntime(model, x)[0], atol=1e-5)


@pytest.mark.parametrize("with_segments", [False, True])
def test_embeddings_with_a_norm_become_gathers(run_in_onnxruntime, tmp_path, with_segments):
    inputs = "ids, seg, words, places, kinds, s, s, mask" if with_segments else "ids, , words, places, , s, s, mask"
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node(
                    "EmbedLayerNormalization",
                    inputs.replace(" ", "").split(","),
                    ["e", "lengths", "sum"],
                    domain="com.microsoft",
                    epsilon=1e-3,
                ),
                helper.make_node("MatMul", ["e", "w"], ["y"]),
            ],
            "g",
            [helper.make_tensor_value_info(name, TensorProto.INT32, [2, 4]) for name in ("ids", "seg", "mask")],
            [
                helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4, 8]),
                helper.make_tensor_value_info("lengths", TensorProto.INT32, [2]),
                helper.make_tensor_value_info("sum", TensorProto.FLOAT, [2, 4, 8]),
            ],
            [
                numpy_helper.from_array(random(*shape), name)
                for name, shape in {"words": (9, 8), "places": (6, 8), "kinds": (2, 8), "s": (8,), "w": (8, 8)}.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", 14), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "m.onnx")
    graph = graph_from_onnx(tmp_path / "m.onnx")
    assert {each.domain for each in graph.graph} == {""}
    ids = np.arange(8, dtype=np.int32).reshape(2, 4)
    feed = {"ids": ids, "seg": ids % 2, "mask": np.array([[1, 1, 1, 0], [1, 1, 0, 0]], np.int32)}
    expected, got = (run_in_onnxruntime(each, feed) for each in (model, ir.to_proto(graph)))
    for one, other in zip(expected, got, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5)
