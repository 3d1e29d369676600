from __future__ import annotations

import re

import torch
from torch import nn
from torch.nn import functional

from edgekit.models.factory import module_from_recipe
from edgekit.models.lenet import LeNet5, lenet5
from edgekit.recipe.schema import load_recipe

torch.set_num_threads(1)


def pictures(count: int) -> torch.Tensor:
    return torch.randn(count, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_table_in_the_docstring_is_correct() -> None:
    module = lenet5()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in module.named_children():
        layer.register_forward_hook(lambda _, __, output, name=name: shapes.update({name: tuple(output.shape[1:])}))
    module(pictures(1))
    lines = re.findall(r"^ +(\w+)  .*?(\d+(?: x +\d+)*)(?: +([\d,]+))?$", LeNet5.__doc__ or "", re.MULTILINE)
    assert [name for name, _, _ in lines] == ["c1", "s2", "c3", "s4", "c5", "f6", "output"]
    for name, shape, parameters in lines:
        counted = sum(parameter.numel() for parameter in module.get_submodule(name).parameters())
        assert (shapes[name], counted) == (
            tuple(int(size) for size in shape.split("x")),
            int(parameters.replace(",", "") or 0),
        )


def test_recipe_has_the_textbooks_numbers() -> None:
    recipe = load_recipe("lenet")
    assert recipe.model.parameters == 156 + 2_416 + 48_120 + 10_164 + 850 == 61_706
    assert recipe.macs == 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10
    assert module_from_recipe(recipe)(torch.zeros(recipe.inputs[0].shape)).shape == (1, 10)


def test_background_and_foreground_values_are_those_of_the_paper() -> None:
    preprocess = load_recipe("lenet").preprocess
    assert preprocess is not None
    paper, ink = ((value - preprocess.mean[0]) / preprocess.std[0] for value in (0, 1))
    assert (round(paper, 3), round(ink, 3)) == (-0.1, 1.175)


def test_fifth_layer_is_the_papers_convolution() -> None:
    module = lenet5()
    maps = torch.randn(2, 16, 5, 5, generator=torch.Generator().manual_seed(0))
    kernel = module.get_parameter("c5.weight").view(120, 16, 5, 5)
    expected = functional.conv2d(maps, kernel, module.get_parameter("c5.bias")).flatten(1)
    torch.testing.assert_close(module.get_submodule("c5")(maps.flatten(1)), expected)


def test_untrained_activations_neither_vanish_nor_saturate() -> None:
    module = module_from_recipe(load_recipe("lenet"))
    spreads: dict[str, float] = {}
    for name, layer in module.named_children():
        if isinstance(layer, nn.Tanh):
            layer.register_forward_hook(lambda _, __, output, name=name: spreads.update({name: output.std().item()}))
    module(pictures(16))
    assert len(spreads) == 4
    assert all(0.1 < spread < 0.8 for spread in spreads.values()), spreads
