"""One fully connected layer: linear regression and softmax regression.

Each output of a fully connected layer is a weighted sum of all inputs plus a bias, ``y = x W^T + b``. With ``n`` inputs
and ``m`` outputs it has ``n * m + m`` parameters and needs ``n * m`` multiply-accumulates per example. Every weight is
used only once, so fully connected layers are memory-bound, and INT8 with a quarter of the bytes makes them faster.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["LinearRegression", "SoftmaxRegression", "least_squares", "linear_regression", "softmax_regression"]


def linear_regression(features: int = 10, outputs: int = 1) -> nn.Module:
    """Linear regression with ``features * outputs + outputs`` parameters.

    Returns:
        A module that takes ``(N, features)`` and returns ``(N, outputs)``.
    """
    return LinearRegression(features, outputs)


def softmax_regression(features: int = 784, classes: int = 10) -> nn.Module:
    """Softmax regression with ``features * classes + classes`` parameters: 7850 for images of 28 x 28 px.

    Returns:
        A module that takes ``(N, ...)`` with ``features`` values per example, and returns logits ``(N, classes)``.
    """
    return SoftmaxRegression(features, classes)


class LinearRegression(nn.Module):
    """Linear regression; the optimal weights have a closed form, see `least_squares`."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, outputs)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.linear(features)
        return y

    def solve(self, features: torch.Tensor, targets: torch.Tensor) -> None:
        """Sets the weights to the least-squares solution for these examples; see `least_squares`."""
        weight, bias = least_squares(features, targets)
        with torch.no_grad():
            self.linear.weight.copy_(weight)
            self.linear.bias.copy_(bias)


class SoftmaxRegression(nn.Module):
    """A linear layer with one logit per class; the highest is the prediction.

    The softmax, which converts logits to probabilities, is not part of the module: the loss includes it (log-softmax is
    numerically more accurate than softmax), and it does not change the order of the classes.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(features, classes)

    def forward(self, examples: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(self.flatten(examples))
        return logits


def least_squares(features: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the weights and biases with the least sum of squared errors, in closed form.

    A column of ones appended to ``X`` makes the bias one more weight. The error ``|X w - y|**2`` has the gradient
    ``2 X^T (X w - y)``, which is zero for the normal equations ``X^T X w = X^T y``. They are solved without forming
    ``X^T X``, which would square the condition number of ``X`` and lose half of the digits. If the solution is not
    unique, as with a feature that is the sum of two others, the result is the one of least norm.

    Args:
        features: ``X``, one example per row, ``(N, features)``.
        targets: ``y``, ``(N, outputs)``.

    Returns:
        Weight ``(outputs, features)`` and bias ``(outputs,)``, as in `torch.nn.Linear`.
    """
    ones = torch.ones(len(features), 1, dtype=torch.float64)
    columns = torch.cat((features.double(), ones), dim=1)
    # LAPACK's gelsd uses the SVD, so it supports any rank.
    solution = torch.linalg.lstsq(columns, targets.double(), driver="gelsd").solution
    return solution[:-1].T.to(features.dtype), solution[-1].to(features.dtype)
