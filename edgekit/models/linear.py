"""One full layer: linear regression and softmax regression, from which everything else in this folder grows.

A full layer gives each of its outputs a weighted sum of all inputs and a bias, ``y = x W^T + b``. With ``n`` inputs and
``m`` outputs it has ``n * m + m`` parameters, and takes ``n * m`` multiply-accumulates an example: every weight is
used once. That is why full layers are bound by memory, and why INT8, which reads a quarter of the bytes, pays there.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["LinearRegression", "SoftmaxRegression", "least_squares", "linear_regression", "softmax_regression"]


def linear_regression(features: int = 10, outputs: int = 1) -> nn.Module:
    """Linear regression, ``features * outputs + outputs`` parameters.

    Returns:
        A module that takes ``(N, features)`` and returns ``(N, outputs)``.
    """
    return LinearRegression(features, outputs)


def softmax_regression(features: int = 784, classes: int = 10) -> nn.Module:
    """Softmax regression, ``features * classes + classes`` parameters: 7850 for pictures of 28 x 28 px.

    Returns:
        A module that takes ``(N, ...)`` of ``features`` numbers each, and returns logits ``(N, classes)``.
    """
    return SoftmaxRegression(features, classes)


class LinearRegression(nn.Module):
    """Numbers from numbers: the one model whose best weights need no training, see `least_squares`."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, outputs)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.linear(features)
        return y

    def solve(self, features: torch.Tensor, targets: torch.Tensor) -> None:
        """Takes the weights of least squared error on these examples; see `least_squares`."""
        weight, bias = least_squares(features, targets)
        with torch.no_grad():
            self.linear.weight.copy_(weight)
            self.linear.bias.copy_(bias)


class SoftmaxRegression(nn.Module):
    """A linear regression of one number a class, the logit; the greatest wins.

    A softmax makes probabilities of logits. It is no part of the module: the loss has it (the logarithm of a softmax is
    computed with less error than the softmax), and what it changes is not which class is the greatest.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(features, classes)

    def forward(self, examples: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(self.flatten(examples))
        return logits


def least_squares(features: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights and biases of the least sum of squared errors, in closed form.

    With a column of ones at the right of ``X``, so that the bias is one more weight, the error ``|X w - y|**2`` has the
    gradient ``2 X^T (X w - y)``. It is zero where the normal equations ``X^T X w = X^T y`` hold. They are solved
    without forming ``X^T X``, which would square the condition of ``X`` and lose half of the digits. Where many ``w``
    are equally good, as with a feature that is the sum of two others, it is the shortest of them.

    Args:
        features: ``X``, one example a row, ``(N, features)``.
        targets: ``y``, ``(N, outputs)``.

    Returns:
        Weight ``(outputs, features)`` and bias ``(outputs,)``, as `torch.nn.Linear` has them.
    """
    ones = torch.ones(len(features), 1, dtype=torch.float64)
    columns = torch.cat((features.double(), ones), dim=1)
    # LAPACK's gelsd: by singular values, and so for any rank
    solution = torch.linalg.lstsq(columns, targets.double(), driver="gelsd").solution
    return solution[:-1].T.to(features.dtype), solution[-1].to(features.dtype)
