from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekit.models.factory import module_from_recipe
from edgekit.models.nin import NetworkInNetwork
from edgekit.recipe.schema import load_recipe

torch.set_num_threads(1)


def without_data(classes: int = 1000) -> NetworkInNetwork:
    with torch.device("meta"):
        return NetworkInNetwork(classes).eval()


def test_parameters_and_macs_are_those_of_the_authors_widths() -> None:
    # kernel, channels in, out, and rows of the output: nin_imagenet of Caffe's model zoo
    convolutions = [(11, 3, 96, 54), (1, 96, 96, 54), (1, 96, 96, 54)]
    convolutions += [(5, 96, 256, 27), (1, 256, 256, 27), (1, 256, 256, 27)]
    convolutions += [(3, 256, 384, 13), (1, 384, 384, 13), (1, 384, 384, 13)]
    convolutions += [(3, 384, 1024, 6), (1, 1024, 1024, 6), (1, 1024, 1000, 6)]
    recipe = load_recipe("nin")
    assert recipe.model.parameters == sum(k * k * before * after + after for k, before, after, _ in convolutions)
    assert recipe.macs == sum(k * k * before * after * rows**2 for k, before, after, rows in convolutions)


def test_maps_have_the_sizes_of_caffes() -> None:
    module = without_data()
    sizes: list[tuple[str, int]] = []
    for name, part in module.named_children():
        if name.startswith(("block", "pool")):
            part.register_forward_hook(lambda _, __, output, name=name: sizes.append((name, output.shape[-1])))
    assert module(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 1000)
    assert [size for _, size in sizes] == [54, 27, 27, 13, 13, 6, 6]


@pytest.mark.parametrize("size", [(39, 39), (224, 320), (256, 256)])
def test_other_image_sizes_give_the_same_number_of_logits(size: tuple[int, int]) -> None:
    assert without_data(classes=7)(torch.empty(2, 3, *size, device="meta")).shape == (2, 7)


def test_38_pixels_are_too_few() -> None:
    with pytest.raises(RuntimeError, match="too small"):
        without_data()(torch.empty(1, 3, 38, 38, device="meta"))


def test_a_logit_is_the_mean_of_its_map() -> None:
    module = module_from_recipe(load_recipe("nin"))
    maps: list[torch.Tensor] = []
    module.get_submodule("block4").register_forward_hook(lambda _, __, output: maps.append(output))
    with torch.inference_mode():
        logits = module(torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(logits, maps[0].mean(dim=(2, 3)))


def test_untrained_activations_neither_vanish_nor_explode() -> None:
    module = module_from_recipe(load_recipe("nin"))
    spreads: list[float] = []
    for part in module.modules():
        if isinstance(part, nn.ReLU):
            part.register_forward_hook(lambda _, __, output: spreads.append(output.std().item()))
    with torch.inference_mode():
        module(torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)))
    assert len(spreads) == 12
    assert all(0.2 < spread < 10 for spread in spreads), spreads
