"""LeNet-5 (LeCun, Bottou, Bengio and Haffner 1998, "Gradient-Based Learning Applied to Document Recognition").

Two ideas make it, and every convolutional net since: a filter is the same at each place of the picture, so that it has
25 weights instead of one for each pixel; and after each stage the map is halved, so that where something is matters
less and less, and what it is more and more.
"""

from __future__ import annotations

import torch
from torch import nn

from edgekit.models.activations import Tanh
from edgekit.models.blocks import initialize

__all__ = ["LeNet5", "lenet5"]


def lenet5(classes: int = 10) -> nn.Module:
    """LeNet-5; 61,706 parameters with 10 classes.

    Returns:
        A module that takes grey pictures ``(N, 1, 32, 32)`` and returns logits ``(N, classes)``.
    """
    return LeNet5(classes)


class LeNet5(nn.Module):
    """Two convolutions with pools after them, and three full layers; named as in figure 2 of the paper.

    ::

                                            output          parameters
        c1      convolution 5 x 5         6 x 28 x 28              156
        s2      average of 2 x 2          6 x 14 x 14
        c3      convolution 5 x 5        16 x 10 x 10            2,416
        s4      average of 2 x 2         16 x  5 x  5
        c5      full layer                        120           48,120
        f6      full layer                         84           10,164
        output  full layer                         10              850

    As the field teaches it, which is simpler than the paper in four places: there the pools have a learned factor and
    bias, each map of C3 reads some of the six maps only (1516 parameters), tanh is ``1.7159 * tanh(2 / 3 * x)``, and
    the output compares F6 with a drawing of each character instead of giving logits. C5 is a convolution in the paper;
    on a map of 5 x 5 it is a full layer.

    Today one would take ReLU and max-pools, which train faster and lose nothing. Tanh and averages are left here, for
    what they teach: every activation has the range -1 to 1, and so the same scale in INT8.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(1, 6, 5)
        self.act1 = Tanh()
        self.s2 = nn.AvgPool2d(2)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.act3 = Tanh()
        self.s4 = nn.AvgPool2d(2)
        self.flatten = nn.Flatten()
        self.c5 = nn.Linear(16 * 5 * 5, 120)
        self.act5 = Tanh()
        self.f6 = nn.Linear(120, 84)
        self.act6 = Tanh()
        self.output = nn.Linear(84, classes)
        # Around zero tanh is a line of slope 1, on both sides: the variance of what comes in is kept as it is.
        initialize(self, slope=1.0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.s2(self.act1(self.c1(images)))
        x = self.s4(self.act3(self.c3(x)))
        x = self.act5(self.c5(self.flatten(x)))
        x = self.act6(self.f6(x))
        logits: torch.Tensor = self.output(x)
        return logits
