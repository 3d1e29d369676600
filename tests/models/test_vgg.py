from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekit.models.factory import module_from_factory
from edgekit.models.vgg import VGG11, VGG16, Vgg

torch.set_num_threads(1)


def without_data(depths: tuple[int, ...], *, norm: bool = False, classes: int = 1000) -> Vgg:
    with torch.device("meta"):
        return Vgg(depths, classes, norm=norm).eval()


@pytest.mark.parametrize(("depths", "layers"), [(VGG11, 11), (VGG16, 16)])
def test_name_says_how_many_layers_have_weights(depths: tuple[int, ...], layers: int) -> None:
    module = without_data(depths, norm=True)
    assert sum(isinstance(layer, (nn.Conv2d, nn.Linear)) for layer in module.modules()) == layers
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in module.modules()) == sum(depths)


def test_first_fully_connected_layer_has_three_quarters_of_the_weights() -> None:
    module = without_data(VGG16)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    assert module.get_parameter("classifier.0.weight").numel() / parameters == pytest.approx(0.75, abs=0.01)


def test_convolutions_of_all_stages_have_the_same_cost() -> None:
    module = without_data(VGG16)
    macs: list[int] = []
    for layer in module.features:
        if isinstance(layer, nn.Conv2d) and layer.in_channels == layer.out_channels:
            layer.register_forward_hook(lambda conv, _, y: macs.append(y.numel() * conv.weight[0].numel()))
    module(torch.empty(1, 3, 224, 224, device="meta"))
    # the last stage has the width of the one before, so a quarter of its cost
    assert set(macs[:6]) == {macs[0]} and set(macs[6:]) == {macs[0] // 4}


def test_other_image_sizes_give_the_same_number_of_logits() -> None:
    module = without_data(VGG11, classes=7)
    for height, width in ((32, 32), (224, 320), (256, 256)):
        assert module(torch.empty(2, 3, height, width, device="meta")).shape == (2, 7)


def test_untrained_activations_neither_vanish_nor_explode() -> None:
    module = module_from_factory("edgekit.models.vgg:vgg16", {"classes": 10})
    spreads: list[float] = []
    for layer in module.modules():
        if isinstance(layer, (nn.ReLU, nn.Linear)):
            layer.register_forward_hook(lambda _, __, output: spreads.append(output.std().item()))
    with torch.inference_mode():
        module(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert len(spreads) == 13 + 2 + 3
    assert all(0.2 < spread < 10 for spread in spreads), spreads
