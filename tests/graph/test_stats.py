from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgekit.graph.export import graph_from_module
from edgekit.graph.passes import InferShapes, optimize
from edgekit.graph.stats import stats_from_graph
from edgekit.models.yolov3 import yolov3_tiny
from edgekit.recipe import load_recipe
from edgekit.specs import TensorSpec


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(6, 8, 3, stride=2, groups=2), (2, 6, 11, 9)),
        (nn.ConvTranspose2d(6, 8, (2, 3), stride=2, groups=2), (2, 6, 5, 7)),
        (nn.Conv1d(4, 5, 3, bias=False), (1, 4, 20)),
        (nn.Linear(12, 7), (3, 12)),
        (nn.Linear(12, 7), (2, 3, 12)),
    ],
    ids=["conv", "transposed", "1-d", "gemm", "matmul"],
)
def test_counts_agree_with_pytorchs_own(module, shape):
    graph = optimize(graph_from_module(module, [TensorSpec("x", "float32", shape)]))
    stats = stats_from_graph(graph)
    with FlopCounterMode(display=False) as counter:
        module(torch.rand(shape))
    assert stats.macs * 2 == counter.get_total_flops()
    assert stats.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert stats.macs == sum(layer.macs for layer in stats.layers)


def test_yolov3_tiny_has_the_macs_of_its_recipe():
    recipe = load_recipe("yolov3-tiny")
    module = yolov3_tiny()
    graph = optimize(graph_from_module(module, [TensorSpec("images", "float32", recipe.inputs[0].shape)]))
    stats = stats_from_graph(graph)
    assert stats.macs == pytest.approx(recipe.macs, rel=1e-3)
    # A folded norm leaves one bias a channel of its two learned numbers, and still counts as two.
    norms = sum(m.num_features for m in module.modules() if isinstance(m, nn.BatchNorm2d))
    assert stats.parameters == sum(p.numel() for p in module.parameters()) == recipe.model.parameters
    assert stats.weight_bytes >= 4 * (stats.parameters - norms)
    conv = next(layer for layer in stats.layers if layer.operator == "Conv")
    assert (conv.output_shape, conv.parameters, conv.macs) == ((1, 16, 416, 416), 432 + 2 * 16, 416 * 416 * 16 * 27)
    assert conv.weight_bytes == 4 * (432 + 16)
    assert conv.activation_bytes == 4 * (3 + 16) * 416 * 416


def test_shared_weight_counts_once_and_each_use_computes():
    conv = nn.Conv2d(4, 4, 1)
    graph = optimize(
        graph_from_module(nn.Sequential(conv, nn.ReLU(), conv), [TensorSpec("x", "float32", (1, 4, 5, 5))])
    )
    stats = stats_from_graph(graph)
    assert (stats.parameters, stats.macs) == (20, 2 * 25 * 16)
    assert stats.activation_bytes == 3 * 2 * 4 * 4 * 25


def test_dynamic_batch_is_counted_as_one_and_said_so():
    graph = optimize(graph_from_module(nn.Conv2d(3, 4, 1), [TensorSpec("x", "float32", ("batch", 3, 8, 8))]))
    stats, of_four = stats_from_graph(graph), stats_from_graph(graph, dynamic_size=4)
    assert stats.assumed_sizes == {"batch": 1}
    assert stats.macs == 64 * 12
    assert of_four.macs == 4 * stats.macs == stats_from_graph(graph, sizes={"batch": 4}).macs


def test_integer_products_count_as_their_float_counterparts(graph_of):
    text = "agraph (uint8[1, 3, 8, 8] x) => (int32[1, 4, 6, 6] y) { y = ConvInteger (x, w) }"
    stats = stats_from_graph(graph_of(text, w=np.zeros((4, 3, 3, 3), np.int8)))
    assert (stats.macs, stats.parameters) == (36 * 4 * 27, 108)


QUANTIZED = """agraph (float[1, 4, 8, 8] x) => (float[1, 8, 8, 8] y) {
    xq = QuantizeLinear (x, s, z)
    xf = DequantizeLinear (xq, s, z)
    wf = DequantizeLinear (w, s, z)
    c = Conv <pads = [1, 1, 1, 1]> (xf, wf, b)
    r = LeakyRelu (c)
    rq = QuantizeLinear (r, s, z)
    rf = DequantizeLinear (rq, s, z)
    p = MaxPool <kernel_shape = [1, 1]> (rf)
    pq = QuantizeLinear (p, s, z)
    pf = DequantizeLinear (pq, s, z)
    y = Conv (pf, v)
}"""


def test_bytes_and_precisions_are_those_between_q_and_dq(graph_of):
    graph = graph_of(
        QUANTIZED,
        s=np.float32(0.1),
        z=np.int8(0),
        w=np.ones((8, 4, 3, 3), np.int8),
        b=np.ones(8, np.float32),
        v=np.ones((8, 8, 1, 1), np.float32),
    )
    InferShapes()(graph)
    stats = stats_from_graph(graph)
    assert [(layer.operator, layer.precision) for layer in stats.layers] == [
        ("Conv", "int8"), ("LeakyRelu", "float32"), ("MaxPool", "int8"), ("Conv", "float32"),
    ]  # fmt: skip
    conv, leaky, pool, last = stats.layers
    assert (conv.parameters, conv.weight_bytes) == (8 * 36 + 8, 8 * 36 + 4 * 8)
    assert conv.activation_bytes == 4 * 64 + 4 * 8 * 64
    assert leaky.activation_bytes == 4 * 8 * 64 + 8 * 64
    assert pool.activation_bytes == 2 * 8 * 64
    assert last.weight_bytes == 4 * 64
    assert stats.parameters == 8 * 36 + 8 + 64


def test_statistics_of_a_normalization_are_not_learned():
    norm = nn.BatchNorm2d(5)
    module = nn.Sequential(nn.ReLU(), norm).eval()
    stats = stats_from_graph(optimize(graph_from_module(module, [TensorSpec("x", "float32", (1, 5, 4, 4))])))
    assert stats.parameters == sum(p.numel() for p in norm.parameters()) == 10


def test_casts_between_floats_are_no_layers(graph_of):
    text = """agraph (float[2, 3] x) => (float[2, 4] y) {
        h = Cast <to = 10> (x)
        p = MatMul (h, w)
        y = Cast <to = 1> (p)
    }"""
    graph = graph_of(text, w=np.ones((3, 4), np.float16))
    InferShapes()(graph)
    (product,) = stats_from_graph(graph).layers
    assert (product.operator, product.precision, product.weight_bytes) == ("MatMul", "float16", 24)
    assert product.activation_bytes == 2 * (6 + 8)
