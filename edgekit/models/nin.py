"""Network in Network (Lin, Chen and Yan 2013, arXiv:1312.4400): full layers at each pixel, and none at the end.

Both of its ideas outlived it. Convolutions of size 1 mix channels at a pixel: they are the bottlenecks of Inception and
ResNet, and most of MobileNet. And the last convolution has one map a class, whose mean over the picture is the logit:
a pool in place of AlexNet's three full layers, without a parameter, for a picture of any size.
"""

from __future__ import annotations

import torch
from torch import nn

from edgekit.models.blocks import NiNBlock, initialize

__all__ = ["NetworkInNetwork", "nin"]


def nin(classes: int = 1000) -> nn.Module:
    """Network in Network for ImageNet; 7,595,176 parameters with 1000 classes, an eighth of AlexNet's.

    Returns:
        A module that takes ``(N, 3, 224, 224)``, or another height and width of 39 and more, and returns logits
        ``(N, classes)``.
    """
    return NetworkInNetwork(classes)


class NetworkInNetwork(nn.Module):
    """Four blocks with max-pools between them, and the mean of each map.

    The widths are those of the authors' own net for ImageNet (``nin_imagenet`` of Caffe's model zoo), which the paper
    does not print. A pool there gives one more row where the last window is not full, so ``ceil_mode``.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.block1 = NiNBlock(3, 96, 11, stride=4)
        self.pool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.block2 = NiNBlock(96, 256, 5, padding=2)
        self.pool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.block3 = NiNBlock(256, 384, 3, padding=1)
        self.pool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.dropout = nn.Dropout(0.5)
        self.block4 = NiNBlock(384, 1024, 3, padding=1, last_channels=classes)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        initialize(self, slope=0.0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.pool1(self.block1(images))
        x = self.pool2(self.block2(x))
        x = self.pool3(self.block3(x))
        x = self.block4(self.dropout(x))
        logits: torch.Tensor = self.flatten(self.average(x))
        return logits
