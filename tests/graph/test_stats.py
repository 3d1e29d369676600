from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgekit.graph.export import graph_from_module
from edgekit.graph.passes import optimize
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
    graph = optimize(graph_from_module(module, [TensorSpec("images", "float32", recipe.input.shape)]))
    stats = stats_from_graph(graph)
    assert stats.macs == pytest.approx(recipe.macs, rel=1e-3)
    norms = sum(m.num_features for m in module.modules() if isinstance(m, nn.BatchNorm2d))
    # A folded norm leaves one bias a channel of its two learned numbers.
    assert stats.parameters == recipe.model.parameters - norms
    assert stats.weight_bytes >= 4 * stats.parameters
    conv = next(layer for layer in stats.layers if layer.operator == "Conv")
    assert (conv.output_shape, conv.parameters, conv.macs) == ((1, 16, 416, 416), 448, 416 * 416 * 16 * 27)


def test_shared_weight_counts_once_and_each_use_computes():
    conv = nn.Conv2d(4, 4, 1)
    graph = optimize(
        graph_from_module(nn.Sequential(conv, nn.ReLU(), conv), [TensorSpec("x", "float32", (1, 4, 5, 5))])
    )
    stats = stats_from_graph(graph)
    assert (stats.parameters, stats.macs) == (20, 2 * 25 * 16)
    assert stats.activation_bytes == 3 * 4 * 4 * 25


def test_dynamic_batch_is_counted_as_one_and_said_so():
    graph = optimize(graph_from_module(nn.Conv2d(3, 4, 1), [TensorSpec("x", "float32", ("batch", 3, 8, 8))]))
    stats, of_four = stats_from_graph(graph), stats_from_graph(graph, dynamic_size=4)
    assert stats.assumed_sizes == {"batch": 1}
    assert stats.macs == 64 * 12
    assert of_four.macs == 4 * stats.macs


def test_integer_products_count_as_their_float_counterparts(graph_of):
    text = "agraph (uint8[1, 3, 8, 8] x) => (int32[1, 4, 6, 6] y) { y = ConvInteger (x, w) }"
    stats = stats_from_graph(graph_of(text, w=np.zeros((4, 3, 3, 3), np.int8)))
    assert (stats.macs, stats.parameters) == (36 * 4 * 27, 108)
