from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from edgekit.training.losses import mean_squared_error, sequence_cross_entropy, softmax_cross_entropy


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return numbers.requires_grad_()


def test_mean_squared_error_is_that_of_torch() -> None:
    outputs, targets = normal(5, 3), normal(5, 3, seed=1).detach()
    torch.testing.assert_close(mean_squared_error(outputs, targets), functional.mse_loss(outputs, targets))
    assert torch.autograd.gradcheck(mean_squared_error, (outputs, targets))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_is_that_of_torch(smoothing: float) -> None:
    logits, classes = normal(6, 4), torch.tensor([0, 3, 1, 1, 2, 0])
    expected = functional.cross_entropy(logits, classes, label_smoothing=smoothing)
    torch.testing.assert_close(softmax_cross_entropy(logits, classes, label_smoothing=smoothing), expected)
    assert torch.autograd.gradcheck(lambda x: softmax_cross_entropy(x, classes, label_smoothing=smoothing), logits)


def test_cross_entropy_of_huge_logits_is_finite() -> None:
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    loss = softmax_cross_entropy(logits, torch.tensor([1, 1]))
    loss.backward()
    assert loss.item() == 1e4
    torch.testing.assert_close(logits.grad, torch.tensor([[0.5, -0.5], [0.0, 0.0]]))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_sequences_is_that_of_torch_without_the_padding(smoothing: float) -> None:
    logits, tokens = normal(3, 5, 7), torch.tensor([[1, 4, 2, 0, 0], [6, 5, 4, 3, 2], [2, 0, 0, 0, 0]])
    expected = functional.cross_entropy(
        logits.flatten(0, 1), tokens.flatten(), ignore_index=0, label_smoothing=smoothing
    )
    torch.testing.assert_close(sequence_cross_entropy(logits, tokens, label_smoothing=smoothing), expected)
    assert torch.autograd.gradcheck(lambda x: sequence_cross_entropy(x, tokens, label_smoothing=smoothing), logits)


def test_padding_has_no_gradient() -> None:
    logits = normal(1, 4, 5)
    sequence_cross_entropy(logits, torch.tensor([[3, 9 % 5, 0, 0]]), label_smoothing=0.1).backward()
    assert logits.grad is not None
    assert logits.grad[0, :2].abs().min() > 0
    assert logits.grad[0, 2:].abs().max() == 0


def test_the_loss_of_padding_is_zero() -> None:
    assert sequence_cross_entropy(normal(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64)).item() == 0
