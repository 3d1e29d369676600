from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.models.blocks import Passthrough
from edgekit.models.factory import module_from_recipe
from edgekit.models.yolov2 import yolov2, yolov2_tiny
from edgekit.recipe.heads import YoloV2
from edgekit.recipe.schema import load_recipe

RECIPES = ["yolov2", "yolov2-tiny", "yolov2-voc"]


def reorg_cpu(x: np.ndarray, stride: int) -> np.ndarray:
    """Darknet's loops (``blas.c``), called as ``forward_reorg_layer`` does: with the sizes of the input."""
    batch, channels, height, width = x.shape
    numbers, out = x.ravel(), np.empty(x.size, x.dtype)
    fewer = channels // stride**2
    for b in range(batch):
        for k in range(channels):
            for j in range(height):
                for i in range(width):
                    offset, c = divmod(k, fewer)
                    column, row = i * stride + offset % stride, j * stride + offset // stride
                    source = column + width * stride * (row + height * stride * (c + fewer * b))
                    out[i + width * (j + height * (k + channels * b))] = numbers[source]
    return out.reshape(batch, channels * stride**2, height // stride, width // stride)


@pytest.mark.parametrize(
    ("shape", "stride"), [((1, 64, 4, 6), 2), ((2, 8, 2, 2), 2), ((2, 18, 6, 3), 3), ((1, 5, 3, 2), 1)]
)
def test_passthrough_uses_darknet_s_order(shape: tuple[int, ...], stride: int) -> None:
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    assert np.array_equal(Passthrough(stride)(torch.from_numpy(x)).numpy(), reorg_cpu(x, stride))


def test_passthrough_is_not_pixel_unshuffle() -> None:
    x = torch.arange(4.0 * 4 * 4).reshape(1, 4, 4, 4)
    assert not torch.equal(Passthrough(2)(x), nn.functional.pixel_unshuffle(x, 2))


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_and_module_agree_on_the_head_and_macs(name: str) -> None:
    recipe = load_recipe(name)
    with torch.device("meta"):
        module = module_from_recipe(recipe)
    macs = 0

    def count(conv: nn.Conv2d, inputs: object, output: torch.Tensor) -> None:
        nonlocal macs
        macs += output.numel() * conv.weight[0].numel()

    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(count)
    head = module(torch.empty(recipe.inputs[0].shape, device="meta"))
    assert macs == recipe.macs
    assert recipe.postprocess is not None and isinstance(recipe.postprocess.head, YoloV2)
    side = recipe.inputs[0].shape[2] // 32
    assert head.shape == (1, 5 * (5 + recipe.model.arguments["classes"]), side, side)
    assert len(recipe.labels.names) == recipe.model.arguments["classes"]
    assert recipe.outputs == ("head32",) and isinstance(module.get_submodule("head32"), nn.Conv2d)


def test_float_bytes_of_the_tiny_module_are_those_of_the_published_file() -> None:
    recipe = load_recipe("yolov2-tiny")
    with torch.device("meta"):
        state = module_from_recipe(recipe).state_dict()
    floats = sum(tensor.numel() for key, tensor in state.items() if not key.endswith("num_batches_tracked"))
    assert recipe.weights["coco"].size_bytes == 20 + 4 * floats


def test_the_tiny_one_for_voc_is_wider_before_its_head() -> None:
    with torch.device("meta"):
        module = yolov2_tiny(20, channels=1024)
    assert module.get_submodule("conv8.conv").weight.shape == (1024, 1024, 3, 3)
    assert module.get_submodule("head32").weight.shape == (125, 1024, 1, 1)


def test_the_number_of_classes_only_changes_the_head() -> None:
    with torch.device("meta"):
        few, many = yolov2(3).state_dict(), yolov2(80).state_dict()
    differing = {name for name in few if few[name].shape != many[name].shape}
    assert differing == {"head32.weight", "head32.bias"}


@pytest.mark.parametrize("name", ["yolov2-tiny", "yolov2-voc"])
def test_untrained_activations_neither_vanish_nor_explode(name: str) -> None:
    module = module_from_recipe(load_recipe(name))
    spreads = {}

    def keep(part: nn.Module, inputs: object, output: torch.Tensor, name: str) -> None:
        spreads[name] = output.std().item()

    for part_name, part in module.named_modules():
        if isinstance(part, nn.LeakyReLU):
            part.register_forward_hook(lambda p, i, o, n=part_name: keep(p, i, o, n))
    with torch.inference_mode():
        head = module(torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)))
    assert len(spreads) > 7 and all(0.05 < spread < 20 for spread in spreads.values()), spreads
    assert head.reshape(1, 5, -1, 3, 3)[:, :, 4].sigmoid().mean() < 0.05
