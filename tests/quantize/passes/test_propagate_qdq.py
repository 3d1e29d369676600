"""Q/DQ placement for TensorRT: tensors with a pair, their consumers, and the layers that TensorRT's parser makes."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from edgekit.engine.tensorrt.scheme import SCHEME
from edgekit.graph.export.module import graph_from_module
from edgekit.graph.passes import optimize
from edgekit.quantize.half.cast import half_from_graph
from edgekit.quantize.quantize import quantized_from_graph
from edgekit.specs import Precision, TensorSpec

RESIDUAL = """
g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) {
    a = Conv (x, w)  r = Relu (a)  b = Conv (r, w)  c = Conv (b, w)  s = Add (c, r)  t = Relu (s)  y = Conv (t, w) }
"""
PROJECTED = """
g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) {
    r = Relu (x)  p = Conv (r, other)  b = Conv (r, w)  c = Conv (b, w)  s = Add (p, c)  t = Relu (s)  y = Conv (t, w) }
"""
DARKNET = """
g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) {
    a = Conv (x, w)  l = LeakyRelu <alpha = 0.1> (a)  b = Conv (l, w)  m = LeakyRelu <alpha = 0.1> (b)
    s = Add (l, m)  y = Conv (s, w) }
"""
SILU = """
g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) {
    a = Conv (x, w)  n = Sigmoid (a)  l = Mul (a, n)  b = Conv (l, w)  o = Sigmoid (b)  m = Mul (b, o)
    s = Add (l, m)  y = Conv (s, w) }
"""
POOL = """
g (float[1, 4, 8, 8] x) => (float[1, 4, 4, 4] y, float[1, 4, 8, 8] z) {
    a = Conv (x, w)  r = Relu (a)  p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
    y = Conv (p, w)  z = Conv (r, w) }
"""
CONCAT = """
g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) {
    a = Conv (x, w)  r = Relu (a)  p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)  b = Conv (p, w)
    u = Resize <mode = "nearest"> (b, , twice)  c = Concat <axis = 1> (u, r)  y = Conv (c, v) }
"""
LINEAR = """
g (float[1, 4, 8, 8] x) => (float[1, 10] y) {
    a = Conv (x, w)  r = Relu (a)  f = Flatten (r)  y = Gemm (f, dense, bias) }
"""


@pytest.fixture
def known_graph(graph_of: Callable[..., ir.Model], weights: Callable[..., np.ndarray]) -> Callable[[str], ir.Model]:
    """Makes a graph from its text, with the weights that it names."""
    known = {
        "w": weights(4, 4, 1, 1),
        "other": weights(4, 4, 1, 1, seed=1),
        "v": weights(4, 8, 1, 1),
        "dense": weights(256, 10),
        "bias": weights(10, 1).ravel(),
        "twice": np.array([1, 1, 2, 2], np.float32),
    }

    def build(text: str) -> ir.Model:
        return graph_of(text, **{name: array for name, array in known.items() if re.search(rf"\b{name}[,)]", text)})

    return build


@pytest.fixture
def pairs(
    known_graph: Callable[[str], ir.Model],
    feeds_for: Callable[..., list[dict[str, np.ndarray]]],
    calibrated: Callable[..., object],
) -> Callable[..., dict[str, list[str]]]:
    """Quantizes a graph; returns the nodes that read the DQ of each tensor with a pair."""

    def quantize(graph: str | ir.Model) -> dict[str, list[str]]:
        if isinstance(graph, str):
            graph = known_graph(graph)
        graph = quantized_from_graph(graph, calibrated(graph, feeds_for(graph)), SCHEME).graph
        return read_from_pairs(graph)

    return quantize


def read_from_pairs(graph: ir.Model) -> dict[str, list[str]]:
    found = {}
    for node in graph.graph:
        if node.op_type == "QuantizeLinear":
            (dequantize,) = (use.node for use in node.outputs[0].uses())
            found[node.inputs[0].name] = [use.node.name for use in dequantize.outputs[0].uses()]
    return found


def scales(graph: ir.Model) -> dict[str, float]:
    return {
        node.inputs[0].name: float(node.inputs[1].const_value.numpy())
        for node in graph.graph
        if node.op_type == "QuantizeLinear"
    }


def test_at_a_residual_sum_the_shortcut_has_a_pair_and_the_convolution_has_none(pairs) -> None:
    assert pairs(RESIDUAL) == {"x": ["a"], "r": ["b", "s"], "b": ["c"], "t": ["y"]}


def test_of_two_convolutions_that_are_added_the_first_is_the_shortcut(pairs) -> None:
    assert pairs(PROJECTED) == {"r": ["p", "b"], "b": ["c"], "p": ["s"], "t": ["y"]}


@pytest.mark.parametrize("block", [DARKNET, SILU], ids=["LeakyRelu", "SiLU"])
def test_a_shortcut_around_an_activation_function_has_a_pair_too(pairs, block) -> None:
    assert pairs(block) == {"x": ["a"], "l": ["b", "s"], "s": ["y"]}


def test_there_is_no_pair_between_a_convolution_and_its_activation_function(pairs) -> None:
    text = "g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) { a = Conv (x, w)  l = LeakyRelu (a)  y = Conv (l, w) }"
    assert pairs(text) == {"x": ["a"], "l": ["y"]}


def test_an_activation_function_reads_its_convolution_if_another_consumer_reads_the_pair(pairs) -> None:
    text = """g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y, float[1, 4, 8, 8] z) {
        a = Conv (x, w)  l = LeakyRelu (a)  y = Conv (l, w)  z = Conv (a, w) }"""
    assert pairs(text) == {"x": ["a"], "a": ["z"], "l": ["y"]}


def test_a_pooling_shares_the_integers_with_other_consumers(pairs) -> None:
    assert pairs(POOL) == {"x": ["a"], "r": ["p", "z"], "p": ["y"]}


def test_a_pooling_with_a_float_consumer_stays_in_float(pairs) -> None:
    text = """g (float[1, 4, 8, 8] x) => (float[1, 4, 7, 7] y, float[1, 4, 7, 7] z) {
        a = Conv (x, w)  p = MaxPool <kernel_shape = [2, 2]> (a)  y = Conv (p, w)  z = Exp (p) }"""
    assert pairs(text) == {"x": ["a"], "p": ["y"]}


def test_a_concat_has_pairs_before_and_after_it_with_one_scale(graph_of, weights, feeds_for, calibrated) -> None:
    two = np.array([1, 1, 2, 2], np.float32)
    graph = graph_of(CONCAT, w=weights(4, 4, 1, 1), v=weights(4, 8, 1, 1), twice=two)
    graph = quantized_from_graph(graph, calibrated(graph, feeds_for(graph)), SCHEME).graph
    assert read_from_pairs(graph) == {"x": ["a"], "r": ["p", "c"], "p": ["b"], "b": ["u"], "u": ["c"], "c": ["y"]}
    scale = scales(graph)
    assert len({scale[name] for name in "rpbuc"}) == 1


def test_interpolation_is_done_in_float(pairs) -> None:
    assert pairs(CONCAT.replace("nearest", "linear")) == {
        "x": ["a"],
        "r": ["p", "c"],
        "p": ["b"],
        "u": ["c"],
        "c": ["y"],
    }


def test_concats_and_sums_without_a_product_as_consumer_stay_in_float(pairs) -> None:
    text = """g (float[1, 4, 8, 8] x) => (float[1, 8, 8, 8] y, float[1, 4, 8, 8] z) {
        a = Relu (x)  b = Relu (a)  y = Concat <axis = 1> (a, b)  z = Conv (x, w) }"""
    assert pairs(text) == {"x": ["z"]}


def test_a_flattened_image_goes_into_a_linear_layer_as_integers(pairs) -> None:
    assert pairs(LINEAR) == {"x": ["a"], "r": ["f"], "f": ["y"]}


def test_attention_multiplies_its_activations_in_float_and_its_weights_in_integers(calibrated, feeds_for) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    graph = optimize(graph_from_module(layer, [TensorSpec("x", "float32", (1, 6, 16))]))
    products = {node.name for node in graph.graph if node.op_type in ("Gemm", "MatMul")}
    of_activations = {
        node.name for node in graph.graph if node.op_type == "MatMul" and node.inputs[1].const_value is None
    }
    assert len(of_activations) == 2 and len(products) == 6
    graph = quantized_from_graph(graph, calibrated(graph, feeds_for(graph)), SCHEME).graph
    reading = {reader for readers in read_from_pairs(graph).values() for reader in readers}
    by_integers = {
        node.name
        for node in graph.graph
        if node.op_type in ("Gemm", "MatMul") and node.inputs[1].producer().op_type == "DequantizeLinear"
    }
    assert by_integers == products - of_activations
    assert not reading & of_activations


def test_biases_are_never_quantized(known_graph, feeds_for, calibrated) -> None:
    graph = known_graph(LINEAR)
    graph = quantized_from_graph(graph, calibrated(graph, feeds_for(graph)), SCHEME).graph
    (gemm,) = (node for node in graph.graph if node.op_type == "Gemm")
    assert gemm.inputs[2].const_value.dtype == ir.DataType.FLOAT


def test_a_first_convolution_that_reads_an_image_stays_in_float(graph_of, weights, pairs) -> None:
    text = """g (float[1, 3, 8, 8] x) => (float[1, 4, 4, 4] y) {
        a = Conv <strides = [2, 2]> (x, v)  r = Relu (a)  y = Conv (r, w) }"""
    assert pairs(graph_of(text, v=weights(4, 3, 1, 1), w=weights(4, 4, 1, 1))) == {"r": ["y"]}


@pytest.mark.parametrize("size", [1.0, 1e-5, 1e-9])
def test_scales_are_representable_in_half_precision(graph_of, weights, feeds_for, calibrated, size) -> None:
    text = "g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) { y = Conv (x, w) }"
    graph = graph_of(text, w=weights(4, 4, 3, 3) * np.float32(size))
    graph = quantized_from_graph(graph, calibrated(graph, feeds_for(graph)), SCHEME).graph
    for node in graph.graph:
        if node.op_type == "DequantizeLinear":
            scale = node.inputs[1].const_value.numpy()
            assert (scale > 0).all() and (scale.astype(np.float16).astype(np.float32) == scale).all()


@pytest.mark.parametrize(
    "text",
    [RESIDUAL, PROJECTED, DARKNET, SILU, POOL, CONCAT, LINEAR],
    ids="residual projected darknet silu pool concat linear".split(),
)
def test_tensorrt_parses_integer_products_with_half_precision_outputs(
    known_graph, feeds_for, calibrated, parsed, text
) -> None:
    graph = known_graph(text)
    table = calibrated(graph, feeds_for(graph))
    products = {node.name for node in graph.graph if node.op_type in ("Conv", "Gemm")}
    graph = quantized_from_graph(graph, table, SCHEME).graph
    graph = half_from_graph(graph, Precision.FP16, table.ranges).graph
    layers = parsed(graph)
    seen = [layer for layer in layers if layer.kind in ("CONVOLUTION", "MATRIX_MULTIPLY")]
    assert len(seen) == len(products)
    for layer in seen:
        assert [source.kind for source in layer.sources[:2]] == ["DEQUANTIZE", "DEQUANTIZE"]
        assert [source.reads[0] for source in layer.sources[:2]] == ["INT8", "INT8"]
        assert set(layer.reads) == {"HALF"} and layer.gives == ["HALF"]
