"""Weights of PyTorch's initializations, and what training makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from torch import nn

from edgekit.graph.random_weights import has_random_weights

SIZES = [(128, 64), (128, 128), (128, 128), (10, 128)]


def graph_of(weights: Sequence[np.ndarray], op_type: str = "MatMul") -> ir.Model:
    """Returns a chain of products."""
    nodes = [helper.make_node(op_type, [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(len(weights))]
    initializers = [numpy_helper.from_array(array.astype(np.float32), f"w{i}") for i, array in enumerate(weights)]
    x, y = (helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, None) for i in (0, len(weights)))
    return ir.from_proto(helper.make_model(helper.make_graph(nodes, "g", [x], [y], initializers)))


def made(fill: Callable[[torch.Tensor], object]) -> list[np.ndarray]:
    torch.manual_seed(0)
    layers = [torch.empty(size) for size in SIZES]
    for layer in layers:
        fill(layer)
    return [layer.numpy().T for layer in layers]


@pytest.mark.parametrize(
    "fill",
    [
        lambda weight: nn.init.kaiming_uniform_(weight, a=5**0.5),  # of PyTorch's layers
        nn.init.kaiming_normal_,
        lambda weight: nn.init.trunc_normal_(weight, std=0.02, a=-0.04, b=0.04),
        nn.init.orthogonal_,
    ],
    ids=["uniform", "normal", "truncated", "orthogonal"],
)
def test_initializations_are_random(fill: Callable[[torch.Tensor], object]) -> None:
    assert has_random_weights(graph_of(made(fill)))


@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose"])
def test_channels_that_a_batch_normalization_scales_are_random(op_type: str) -> None:
    random = np.random.default_rng(0)
    weights = random.uniform(-1, 1, (4, 64, 64, 3, 3)) * random.uniform(0.1, 3, (64, 1, 1, 1))
    if op_type == "ConvTranspose":
        weights = weights.swapaxes(1, 2)
    assert has_random_weights(graph_of(list(weights), op_type))


def test_a_layer_of_zeros_does_not_count() -> None:
    weights = made(nn.init.kaiming_normal_)
    assert has_random_weights(graph_of([*weights, np.zeros((128, 128))]))
    assert not has_random_weights(graph_of([*weights[:2], np.zeros((128, 128))]))  # two matrices do not tell


def test_trained_weights_are_not_random() -> None:
    pictures, digits = load_digits(return_X_y=True)
    network = MLPClassifier((128, 128, 128), random_state=0, learning_rate_init=3e-3)
    for _ in range(3):
        network.partial_fit(pictures / 16, digits, classes=np.arange(10))
    assert network.score(pictures / 16, digits) > 0.9
    assert not has_random_weights(graph_of(network.coefs_))
