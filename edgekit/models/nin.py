"""Network in Network (Lin, Chen and Yan 2013, arXiv:1312.4400): 1 x 1 convolutions and global average pooling.

Both ideas are still in use. 1 x 1 convolutions mix the channels of a pixel: they are the bottlenecks of Inception and
ResNet, and most of MobileNet. The last convolution has one feature map per class, and its mean is the logit: this
pooling replaces AlexNet's three fully connected layers, has no parameters, and supports any image size.
"""

from __future__ import annotations

import torch
from torch import nn

from edgekit.models.blocks import NiNBlock, initialize

__all__ = ["NetworkInNetwork", "nin"]


def nin(classes: int = 1000) -> nn.Module:
    """Network in Network for ImageNet; 7,595,176 parameters with 1000 classes, an eighth of AlexNet's.

    Returns:
        A module that takes ``(N, 3, 224, 224)``, or another height and width of at least 39, and returns logits
        ``(N, classes)``.
    """
    return NetworkInNetwork(classes)


class NetworkInNetwork(nn.Module):
    """Four blocks with max-pools between them, and global average pooling.

    The widths are those of the authors' ImageNet model (``nin_imagenet`` in Caffe's model zoo), which the paper does
    not list. Caffe's pooling rounds the output size up, hence ``ceil_mode``.
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
