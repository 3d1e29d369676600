from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekit.models.factory import module_from_factory, module_from_recipe
from edgekit.recipe.schema import Recipe, load_recipe

PUBLISHED = {"yolov3": 61_949_149, "yolov3-tiny": 8_852_366, "yolov3-spp": 62_998_749}
RECIPES = list(PUBLISHED)


def without_data(recipe: Recipe) -> nn.Module:
    with torch.device("meta"):
        return module_from_recipe(recipe)


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_parameters_are_as_many_as_published(name: str, parameters: int) -> None:
    module = without_data(load_recipe(name))
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_and_module_agree_on_heads_and_macs(name: str) -> None:
    recipe = load_recipe(name)
    module = without_data(recipe)
    macs = 0

    def count(conv: nn.Conv2d, inputs: object, output: torch.Tensor) -> None:
        nonlocal macs
        macs += output.numel() * conv.weight[0].numel()

    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(count)
    heads = module(torch.empty(recipe.inputs[0].shape, device="meta"))
    assert macs == recipe.macs
    assert recipe.postprocess is not None
    batch, _, height, width = recipe.inputs[0].shape
    classes = recipe.model.arguments["classes"]
    assert [tuple(head.shape) for head in heads] == [
        (batch, len(head.anchors) * (5 + classes), height // head.stride, width // head.stride)
        for head in recipe.postprocess.head.heads
    ]
    assert recipe.outputs == tuple(head.output for head in recipe.postprocess.head.heads)
    assert all(isinstance(module.get_submodule(output), nn.Conv2d) for output in recipe.outputs)


@pytest.mark.parametrize("name", RECIPES)
def test_float_bytes_of_the_module_are_those_of_the_published_file(name: str) -> None:
    recipe = load_recipe(name)
    state = without_data(recipe).state_dict()
    floats = sum(tensor.numel() for key, tensor in state.items() if not key.endswith("num_batches_tracked"))
    assert recipe.weights["coco"].size_bytes == 20 + 4 * floats


@pytest.mark.parametrize("factory", ["yolov3", "yolov3_spp", "yolov3_tiny"])
def test_the_number_of_classes_only_changes_the_heads(factory: str) -> None:
    with torch.device("meta"):
        few, many = (module_from_factory(f"edgekit.models.yolov3:{factory}", {"classes": n}) for n in (3, 80))
    differing = {
        name.partition(".")[0]
        for (name, a), b in zip(few.state_dict().items(), many.state_dict().values(), strict=True)
        if a.shape != b.shape
    }
    assert differing == {name for name, _ in few.named_children() if name.startswith("head")}
    assert few.get_parameter("head32.bias").shape == (3 * (5 + 3),)


@pytest.mark.parametrize("name", RECIPES)
def test_untrained_activations_neither_vanish_nor_explode(name: str) -> None:
    module = module_from_recipe(load_recipe(name))
    spreads = {}

    def keep(part: nn.Module, inputs: object, output: torch.Tensor, name: str) -> None:
        spreads[name] = output.std().item()

    for part_name, part in module.named_modules():
        if isinstance(part, nn.LeakyReLU):
            part.register_forward_hook(lambda p, i, o, n=part_name: keep(p, i, o, n))
    with torch.inference_mode():
        heads = module(torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)))
    assert all(0.05 < spread < 20 for spread in spreads.values()), spreads
    for head in heads:
        objectness = head.reshape(1, 3, 85, *head.shape[2:])[:, :, 4].sigmoid()
        assert objectness.mean() < 0.05


def test_width_scales_the_channels_of_yolov3_tiny() -> None:
    recipe = load_recipe("yolov3-tiny-scenes")
    narrow, wide = without_data(recipe), module_from_factory("edgekit.models.yolov3:yolov3_tiny", {"classes": 10})
    assert [name for name, _ in narrow.named_modules()] == [name for name, _ in wide.named_modules()]
    assert narrow.get_submodule("backbone.conv7.conv").weight.shape == (512, 256, 3, 3)
    assert narrow.get_submodule("backbone.conv1.conv").weight.shape == (8, 3, 3, 3)
