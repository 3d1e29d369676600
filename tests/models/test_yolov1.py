from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.models.blocks import LocallyConnected
from edgekit.models.factory import module_from_recipe
from edgekit.models.yolov1 import CellGrid, yolov1, yolov1_local, yolov1_tiny
from edgekit.recipe.heads import YoloV1
from edgekit.recipe.schema import load_recipe


def local_by_loops(layer: LocallyConnected, x: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """``forward_local_layer`` of Darknet: at position ``j`` the ``j``-th matrix times the patch of the kernel."""
    channels, height, width = layer.bias.shape
    out = np.repeat(layer.bias.detach().double().numpy()[None], len(x), axis=0)
    kernels = layer.weight.detach().double().numpy().reshape(height * width, channels, -1)
    size = layer.kernel
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    for picture in range(len(x)):
        for row in range(height):
            for column in range(width):
                top, left = row * stride, column * stride
                seen = x[picture, :, top : top + size, left : left + size].ravel()
                out[picture, :, row, column] += kernels[row * width + column] @ seen
    return out


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [((7, 7), 3, 1, 1), ((5, 4), 3, 1, 0), ((6, 8), 2, 2, 0), ((3, 3), 1, 1, 0)],
)
def test_locally_connected_matches_darknet_s_loops(
    size: tuple[int, int], kernel: int, stride: int, padding: int
) -> None:
    torch.manual_seed(0)
    layer = LocallyConnected(3, 5, kernel, size, stride=stride, padding=padding)
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, *size)
    expected = local_by_loops(layer, x.numpy(), stride, padding)
    with torch.inference_mode():
        got = layer(x).numpy()
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_locally_connected_with_one_kernel_everywhere_is_a_convolution() -> None:
    conv = nn.Conv2d(4, 6, 3, padding=1)
    layer = LocallyConnected(4, 6, 3, (5, 5), padding=1)
    with torch.no_grad():
        layer.weight.copy_(conv.weight.reshape(6, 36, 1, 1).repeat(25, 1, 1, 1))
        layer.bias.copy_(conv.bias[:, None, None].expand(6, 5, 5))
        x = torch.randn(2, 4, 5, 5)
        torch.testing.assert_close(layer(x), conv(x), rtol=1e-5, atol=1e-5)


def test_cells_are_at_darknet_s_indices() -> None:
    side, boxes, classes = 4, 3, 5
    numbers = np.random.default_rng(0).random((2, side * side * (classes + 5 * boxes)), dtype=np.float32)
    cells = CellGrid(side, boxes, classes)(torch.from_numpy(numbers)).numpy()
    for picture in range(2):
        for i in range(side * side):
            row, column = divmod(i, side)
            expected = [numbers[picture, i * classes + c] for c in range(classes)]
            expected += [numbers[picture, side * side * classes + i * boxes + b] for b in range(boxes)]
            first = side * side * (classes + boxes) + i * boxes * 4
            expected += list(numbers[picture, first : first + 4 * boxes])
            assert cells[picture, :, row, column].tolist() == expected


@pytest.mark.parametrize("name", ["yolov1", "yolov1-local", "yolov1-tiny"])
def test_recipe_and_module_agree_on_the_head_and_macs(name: str) -> None:
    recipe = load_recipe(name)
    with torch.device("meta"):
        module = module_from_recipe(recipe)
    macs = 0

    def count(part: nn.Conv2d | nn.Linear | LocallyConnected, inputs: object, output: torch.Tensor) -> None:
        nonlocal macs
        macs += output.numel() * part.weight[0].numel()

    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear, LocallyConnected)):
            part.register_forward_hook(count)
    head = module(torch.empty(recipe.inputs[0].shape, device="meta"))
    assert macs == recipe.macs
    assert recipe.postprocess is not None and isinstance(recipe.postprocess.head, YoloV1)
    assert head.shape == (1, 20 + 5 * recipe.postprocess.head.heads[0].boxes, 7, 7)
    assert len(recipe.labels.names) == 20


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_paper_s_network_has_24_convolutions_and_outputs_7_x_7_x_30() -> None:
    with torch.device("meta"):
        module = yolov1()
        assert module(torch.empty(1, 3, 448, 448)).shape == (1, 30, 7, 7)
    kinds = [type(part) for part in module.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    assert kinds == [nn.Conv2d] * 24 + [nn.Linear] * 2
    filters = sum(part.out_channels for part in module.modules() if isinstance(part, nn.Conv2d))
    assert parameters(module) - filters == 271_703_550  # with biases instead of scales and shifts


def test_the_published_network_has_a_local_layer_and_three_boxes() -> None:
    with torch.device("meta"):
        module = yolov1_local()
    assert isinstance(module.get_submodule("full.local"), LocallyConnected)
    assert module.get_parameter("full.local.weight").shape == (49 * 256, 9 * 1024, 1, 1)
    assert module.get_parameter("head64.weight").shape == (1715, 49 * 256)


def test_untrained_activations_neither_vanish_nor_explode() -> None:
    torch.manual_seed(0)
    module = yolov1_tiny().eval()
    spreads = []
    for part in module.modules():
        if isinstance(part, nn.LeakyReLU):
            part.register_forward_hook(lambda p, i, o: spreads.append(o.std().item()))
    with torch.inference_mode():
        head = module(torch.rand(1, 3, 448, 448))
    assert len(spreads) == 8 and all(0.05 < spread < 20 for spread in spreads), spreads
    confidences, probabilities = head[:, 20:22, None], head[:, None, :20]
    assert (confidences * probabilities).max() < 0.25
