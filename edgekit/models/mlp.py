"""The multi-layer perceptron: fully connected layers with activation functions between them.

Without activations, several layers would equal one layer with the product of their matrices. With them, one hidden
layer of sufficient width approximates any continuous function (Cybenko 1989).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from edgekit.models.activations import ReLU
from edgekit.models.blocks import initialize

__all__ = ["Mlp", "mlp"]


def mlp(features: int = 784, hidden: Sequence[int] = (256,), classes: int = 10) -> nn.Module:
    """An MLP with any number of hidden layers; 203,530 parameters with 784, 256 and 10.

    Returns:
        A module that takes ``(N, ...)`` with ``features`` values per example, and returns logits ``(N, classes)``.
    """
    return Mlp(features, hidden, classes)


class Mlp(nn.Module):
    """Fully connected layers with a ReLU after each except the last."""

    def __init__(self, features: int, hidden: Sequence[int], classes: int) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.hidden = nn.Sequential()
        for i, (before, after) in enumerate(pairwise((features, *hidden)), start=1):
            self.hidden.add_module(f"linear{i}", nn.Linear(before, after))
            self.hidden.add_module(f"act{i}", ReLU())
        self.output = nn.Linear(hidden[-1] if hidden else features, classes)
        initialize(self, slope=0.0)

    def forward(self, examples: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.output(self.hidden(self.flatten(examples)))
        return logits
