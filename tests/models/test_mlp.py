from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekit.models.factory import module_from_recipe
from edgekit.models.mlp import mlp
from edgekit.recipe.schema import load_recipe


def pictures(count: int) -> torch.Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def test_recipe_has_the_textbooks_numbers() -> None:
    recipe = load_recipe("mlp")
    assert recipe.model.parameters == 784 * 256 + 256 + 256 * 10 + 10 == 203_530
    assert recipe.macs == 784 * 256 + 256 * 10
    assert module_from_recipe(recipe)(pictures(3)).shape == (3, 10)


@pytest.mark.parametrize("hidden", [(), (5,), (64, 32, 16)])
def test_outputs_are_those_of_the_matrix_products(hidden: tuple[int, ...]) -> None:
    model = mlp(784, hidden, 10)
    x = pictures(4).flatten(1)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in layers] == [*hidden, 10]
    for layer in layers[:-1]:
        x = (x @ layer.weight.T + layer.bias).clamp(min=0)
    torch.testing.assert_close(model(pictures(4)), x @ layers[-1].weight.T + layers[-1].bias)


def test_layers_without_activations_equal_one_layer() -> None:
    model = mlp(20, (30, 40), 5).double()
    linear = nn.Sequential(*[layer for layer in model.modules() if isinstance(layer, nn.Linear)])
    x = torch.randn(6, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bias = linear(torch.zeros(1, 20, dtype=torch.float64))
    one_matrix = linear[2].weight @ linear[1].weight @ linear[0].weight
    torch.testing.assert_close(linear(x), x @ one_matrix.T + bias)
    assert not torch.allclose(model(x), x @ one_matrix.T + bias)
