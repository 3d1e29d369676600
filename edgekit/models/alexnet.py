"""AlexNet (Krizhevsky, Sutskever and Hinton 2012), the net that won ImageNet by eleven points and began all of this.

It is LeNet at a thousand times the size, and what made that trainable: ReLU instead of tanh, dropout against
learning by heart, a million pictures, and two graphics cards.
"""

from __future__ import annotations

import torch
from torch import nn

from edgekit.models.activations import ReLU
from edgekit.models.blocks import initialize

__all__ = ["AlexNet", "alexnet"]


def alexnet(classes: int = 1000) -> nn.Module:
    """AlexNet as torchvision has it; 61,100,840 parameters with 1000 classes.

    Returns:
        A module that takes ``(N, 3, 224, 224)``, or another height and width of 63 and more, and returns logits
        ``(N, classes)``.
    """
    return AlexNet(classes)


class AlexNet(nn.Module):
    """Five convolutions and three full layers, of which the full ones have 96 % of the parameters and 8 % of the work.

    ::

                                              output      parameters         MACs
        convolution 11 x 11, stride 4    64 x 55 x 55         23,296   70,276,800
        maximum of 3 x 3, stride 2       64 x 27 x 27
        convolution 5 x 5               192 x 27 x 27        307,392  223,948,800
        maximum of 3 x 3, stride 2      192 x 13 x 13
        convolution 3 x 3               384 x 13 x 13        663,936  112,140,288
        convolution 3 x 3               256 x 13 x 13        884,992  149,520,384
        convolution 3 x 3               256 x 13 x 13        590,080   99,680,256
        maximum of 3 x 3, stride 2      256 x  6 x  6
        full layer                               4096     37,752,832   37,748,736
        full layer                               4096     16,781,312   16,777,216
        full layer                               1000      4,097,000    4,096,000

    This is the variant of Krizhevsky 2014 (arXiv:1404.5997, "One weird trick"), which torchvision's weights are of:
    one column in place of two that talk to each other at some layers (one for each card), 64 filters in place of 96,
    and no normalization of neighbouring channels. The state dict has torchvision's names.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            ReLU(),
            nn.MaxPool2d(3, stride=2),
        )
        # Nothing at 224 x 224, where the map is 6 x 6 already; pictures of other sizes are brought to it here.
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * 6 * 6, 4096),
            ReLU(),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            ReLU(),
            nn.Linear(4096, classes),
        )
        initialize(self, slope=0.0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.flatten(self.avgpool(self.features(images))))
        return logits
