from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgekit.models.factory import module_from_recipe
from edgekit.models.linear import LinearRegression, SoftmaxRegression, least_squares
from edgekit.recipe.schema import load_recipe

torch.set_num_threads(1)


def examples(count: int, features: int, outputs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.standard_normal((count, features)), random.standard_normal((count, outputs))


def lstsq_of_numpy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights, and the bias as their last row."""
    solution: np.ndarray = np.linalg.lstsq(np.hstack([x, np.ones((len(x), 1))]), y, rcond=None)[0]
    return solution


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 3), st.integers(0, 10_000))
def test_closed_form_is_that_of_numpy(count: int, features: int, outputs: int, seed: int) -> None:
    x, y = examples(count, features, outputs, seed)
    weight, bias = least_squares(torch.from_numpy(x), torch.from_numpy(y))
    expected = lstsq_of_numpy(x, y)
    np.testing.assert_allclose(np.vstack([weight.numpy().T, bias.numpy()]), expected, rtol=1e-6, atol=1e-8)


def test_closed_form_works_if_a_feature_is_the_sum_of_two_others() -> None:
    x, y = examples(50, 3, 1)
    x[:, 2] = x[:, 0] + x[:, 1]
    weight, bias = least_squares(torch.from_numpy(x), torch.from_numpy(y))
    np.testing.assert_allclose(np.vstack([weight.numpy().T, bias.numpy()]), lstsq_of_numpy(x, y), atol=1e-9)


def test_gradient_of_the_squared_error_is_zero_at_the_closed_form() -> None:
    x, y = (torch.from_numpy(values) for values in examples(200, 10, 2))
    model = LinearRegression(10, 2).double()
    model.solve(x, y)
    nn.functional.mse_loss(model(x), y).backward()
    assert max(parameter.grad.abs().max().item() for parameter in model.parameters()) < 1e-12


def test_gradient_descent_converges_to_the_closed_form() -> None:
    x, y = (torch.from_numpy(values) for values in examples(100, 4, 1))
    solved, trained = LinearRegression(4, 1).double(), LinearRegression(4, 1).double()
    solved.solve(x, y)
    descent = torch.optim.SGD(trained.parameters(), lr=0.2)
    for _ in range(300):
        descent.zero_grad()
        nn.functional.mse_loss(trained(x), y).backward()
        descent.step()
    torch.testing.assert_close(trained.linear.weight, solved.linear.weight, rtol=0, atol=1e-8)
    torch.testing.assert_close(trained.linear.bias, solved.linear.bias, rtol=0, atol=1e-8)


def test_weights_are_recovered_from_noisy_examples() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((1000, 2)).astype(np.float32)
    y = x @ np.array([[2.0], [-3.4]], np.float32) + 4.2 + random.normal(0, 0.01, (1000, 1)).astype(np.float32)
    weight, bias = least_squares(torch.from_numpy(x), torch.from_numpy(y))
    assert weight.dtype == bias.dtype == torch.float32
    assert weight.tolist() == [pytest.approx([2.0, -3.4], abs=2e-3)]
    assert bias.tolist() == pytest.approx([4.2], abs=2e-3)


def test_gradient_of_softmax_regression_is_prediction_minus_truth() -> None:
    model = SoftmaxRegression(12, 5).double()
    pictures = torch.randn(7, 1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    logits = model(pictures)
    nn.functional.cross_entropy(logits, truth).backward()
    wrong = torch.softmax(logits.detach(), dim=1) - nn.functional.one_hot(truth, 5)
    torch.testing.assert_close(model.linear.weight.grad, wrong.T @ pictures.flatten(1) / 7)
    torch.testing.assert_close(model.linear.bias.grad, wrong.mean(dim=0))


@pytest.mark.parametrize(
    ("name", "parameters", "macs"), [("linear-regression", 11, 10), ("softmax-regression", 7850, 7840)]
)
def test_recipe_has_the_textbooks_numbers(name: str, parameters: int, macs: int) -> None:
    recipe = load_recipe(name)
    assert (recipe.model.parameters, recipe.macs) == (parameters, macs)
    module = module_from_recipe(recipe)
    weight = module.get_parameter("linear.weight")
    assert module(torch.zeros(recipe.inputs[0].shape)).shape == (1, len(weight))
