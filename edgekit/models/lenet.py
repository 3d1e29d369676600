"""LeNet-5 (LeCun, Bottou, Bengio and Haffner 1998, "Gradient-Based Learning Applied to Document Recognition").

Its two ideas are in every later convolutional network: a filter is shared by all positions of the image, so it has 25
weights instead of one per pixel; and pooling halves the feature map after each stage, which trades spatial resolution
for features.
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
        A module that takes grayscale images ``(N, 1, 32, 32)`` and returns logits ``(N, classes)``.
    """
    return LeNet5(classes)


class LeNet5(nn.Module):
    """Two convolutions with pooling and three fully connected layers; named as in figure 2 of the paper.

    ::

                                            output          parameters
        c1      convolution 5 x 5         6 x 28 x 28              156
        s2      average pool 2 x 2        6 x 14 x 14
        c3      convolution 5 x 5        16 x 10 x 10            2,416
        s4      average pool 2 x 2       16 x  5 x  5
        c5      fully connected                   120           48,120
        f6      fully connected                    84           10,164
        output  fully connected                    10              850

    This common version is simpler than the paper in four ways: there, pooling layers have a learned factor and bias,
    each map of C3 reads only some of the six maps (1516 parameters), tanh is ``1.7159 * tanh(2 / 3 * x)``, and the
    output compares F6 with a bitmap of each character instead of giving logits. C5 is a convolution in the paper; on a
    5 x 5 map it is a fully connected layer.

    Modern networks use ReLU and max-pooling, which train faster without loss of accuracy. Tanh and average pooling stay
    here as an example: every activation has the range -1 to 1, and therefore the same INT8 scale.
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
        # Near zero tanh is linear with slope 1 on both sides, so it keeps the variance.
        initialize(self, slope=1.0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.s2(self.act1(self.c1(images)))
        x = self.s4(self.act3(self.c3(x)))
        x = self.act5(self.c5(self.flatten(x)))
        x = self.act6(self.f6(x))
        logits: torch.Tensor = self.output(x)
        return logits
