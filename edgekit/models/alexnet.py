"""AlexNet (Krizhevsky, Sutskever and Hinton 2012), the network that won ImageNet 2012 by eleven points.

It is LeNet at a thousand times the size. ReLU instead of tanh, dropout against overfitting, a million images and two
GPUs made it trainable.
"""

from __future__ import annotations

import torch
from torch import nn

from edgekit.models.activations import ReLU
from edgekit.models.blocks import initialize

__all__ = ["AlexNet", "alexnet"]


def alexnet(classes: int = 1000) -> nn.Module:
    """AlexNet as in torchvision; 61,100,840 parameters with 1000 classes.

    Returns:
        A module that takes ``(N, 3, 224, 224)``, or another height and width of at least 63, and returns logits
        ``(N, classes)``.
    """
    return AlexNet(classes)


class AlexNet(nn.Module):
    """Five convolutions, and three fully connected layers with 96 % of the parameters and 8 % of the MACs.

    ::

                                              output      parameters         MACs
        convolution 11 x 11, stride 4    64 x 55 x 55         23,296   70,276,800
        max-pool 3 x 3, stride 2         64 x 27 x 27
        convolution 5 x 5               192 x 27 x 27        307,392  223,948,800
        max-pool 3 x 3, stride 2        192 x 13 x 13
        convolution 3 x 3               384 x 13 x 13        663,936  112,140,288
        convolution 3 x 3               256 x 13 x 13        884,992  149,520,384
        convolution 3 x 3               256 x 13 x 13        590,080   99,680,256
        max-pool 3 x 3, stride 2        256 x  6 x  6
        fully connected                          4096     37,752,832   37,748,736
        fully connected                          4096     16,781,312   16,777,216
        fully connected                          1000      4,097,000    4,096,000

    This is the variant of Krizhevsky 2014 (arXiv:1404.5997, "One weird trick"), which torchvision's weights use: one
    column instead of two that are connected at some layers (one per GPU), 64 filters instead of 96, and no local
    response normalization. The state dict has torchvision's names.
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
        # No effect at 224 x 224, where the map is already 6 x 6; it makes other image sizes fit the linear layer.
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
