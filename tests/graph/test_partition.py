"""Which nodes each layer of an engine computes, for the records that ONNX Runtime, OpenVINO and TensorRT give."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from edgekit.graph.partition import Executed, nodes_by_layer

BLOCK = """
<ir_version: 8, opset_import: ["" : 17]>
block (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y)
<float[4, 4, 1, 1] w0 = {WEIGHT}, float[4, 4, 1, 1] w1 = {WEIGHT}> {
    [conv0] c0 = Conv (x, w0)
    [relu0] r0 = Relu (c0)
    [conv1] c1 = Conv (r0, w1)
    [add] a = Add (c1, r0)
    [relu1] y = Relu (a)
}
"""
QUANTIZED = """
<ir_version: 8, opset_import: ["" : 17]>
quantized (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y)
<float s = {0.1}, uint8 z = {0}, int8[4, 4, 1, 1] w = {INTEGERS}, float ws = {0.1}, int8 wz = {0}> {
    [x_quantize] xq = QuantizeLinear (x, s, z)
    [x_dequantize] xd = DequantizeLinear (xq, s, z)
    [w_dequantize] wd = DequantizeLinear (w, ws, wz)
    [conv] c = Conv (xd, wd)
    [relu] r = Relu (c)
    [r_quantize] rq = QuantizeLinear (r, s, z)
    [r_dequantize] y = DequantizeLinear (rq, s, z)
}
"""


def graph_of(text: str) -> ir.Graph:
    onnx = pytest.importorskip("onnx")
    numbers = ", ".join(["1"] * 16)
    model = onnx.parser.parse_model(text.replace("WEIGHT", numbers).replace("INTEGERS", numbers))
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model)).graph


def names(graph: ir.Graph, *layers: Executed) -> list[tuple[str | None, ...]]:
    return [tuple(node.name for node in part) for part in nodes_by_layer(graph, layers)]


def test_activations_and_sums_are_fused_into_the_convolution_that_runs_last() -> None:
    # As ONNX Runtime and OpenVINO record them: named after the convolution alone.
    assert names(graph_of(BLOCK), Executed(["conv0"]), Executed(["conv1"])) == [
        ("conv0", "relu0"),
        ("conv1", "add", "relu1"),
    ]


def test_a_layer_that_is_named_after_the_value_that_it_computes_has_all_nodes_before_it() -> None:
    assert names(graph_of(BLOCK), Executed(["r0"]), Executed(["y"])) == [
        ("conv0", "relu0"),
        ("conv1", "add", "relu1"),
    ]


def test_the_values_that_a_layer_reads_and_writes_bound_its_nodes() -> None:
    layers = (
        Executed(["conv0"], ["x"], ["c0"]),
        Executed(["engine's own name"], ["c0"], ["r0"]),
        Executed(["conv1"], ["r0"], ["c1"]),
        Executed(["fused"], ["c1", "r0"], ["y"]),
    )
    assert names(graph_of(BLOCK), *layers) == [("conv0",), ("relu0",), ("conv1",), ("add", "relu1")]


def test_all_nodes_that_a_record_lists_belong_to_the_layer() -> None:
    assert names(graph_of(BLOCK), Executed(["conv0", "relu0", "conv1", "add", "relu1"])) == [
        ("conv0", "relu0", "conv1", "add", "relu1")
    ]


def test_a_node_that_became_several_layers_belongs_to_each() -> None:
    # `edgekit.lower` names the parts of a node NODE.part.
    layers = (Executed(["conv0.upper_plane"]), Executed(["conv0.lower_plane"]), Executed(["conv1"]))
    assert names(graph_of(BLOCK), *layers)[:2] == [("conv0",), ("conv0", "relu0")]


def test_a_layer_of_the_backends_own_has_no_nodes() -> None:
    assert names(graph_of(BLOCK), Executed(["conv0"]), Executed(["ReorderOutput"]), Executed(["conv1"]))[1] == ()


def test_a_layer_without_names_computes_what_its_reader_reads_and_nobody_computes() -> None:
    # OpenVINO computes a LayerNormalization as "MVN_12", and its scale and shift in the layers after it.
    layers = (Executed(["conv0"]), Executed(["MVN_12"], readers=[2]), Executed(["conv1"]), Executed(["relu1"]))
    assert names(graph_of(BLOCK), *layers) == [("conv0",), ("relu0",), ("conv1", "add"), ("relu1",)]


def test_dequantizers_belong_to_their_reader_and_quantizers_to_what_they_quantize() -> None:
    layers = (Executed(["x_quantize"]), Executed(["conv"]), Executed(["r_dequantize"]))
    assert names(graph_of(QUANTIZED), *layers) == [
        ("x_quantize",),
        ("x_dequantize", "w_dequantize", "conv", "relu", "r_quantize"),
        ("r_dequantize",),
    ]


def test_computing_shapes_belongs_to_no_layer() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    shapes (float[1, 4, 8, 8] x) => (float[1, 256] y) <int64[1] rest = {-1}, int64[1] zero = {0}> {
        [relu] r = Relu (x)
        [shape] s = Shape (r)
        [gather] b = Gather (s, zero)
        [concat] to = Concat <axis = 0> (b, rest)
        [reshape] y = Reshape (r, to)
    }
    """
    assert names(graph_of(text), Executed(["relu"]), Executed(["reshape"])) == [("relu",), ("reshape",)]
