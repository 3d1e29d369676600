"""VGG (Simonyan and Zisserman 2014, arXiv:1409.1556): a deeper network of 3 x 3 convolutions only.

Two 3 x 3 convolutions have the receptive field of one 5 x 5 convolution, with 18 weights instead of 25 and one more
activation; three have that of 7 x 7, with 27 weights instead of 49. Each stage halves height and width and doubles the
channels, so the cost per convolution stays the same. Later networks have the same stages.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from edgekit.models.activations import ReLU
from edgekit.models.blocks import initialize

__all__ = ["Vgg", "vgg11", "vgg11_bn", "vgg16", "vgg16_bn"]

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the five stages."""

VGG11 = (1, 1, 2, 2, 2)
VGG16 = (2, 2, 3, 3, 3)
"""Convolutions per stage: columns A and D of the paper's table 1; 11 and 16 layers with the fully connected ones."""


def vgg11(classes: int = 1000) -> nn.Module:
    """VGG-11: eight convolutions and three fully connected layers; 132,863,336 parameters with 1000 classes.

    Returns:
        A module that takes ``(N, 3, 224, 224)``, or another height and width of at least 32, and returns logits
        ``(N, classes)``.
    """
    return Vgg(VGG11, classes)


def vgg11_bn(classes: int = 1000) -> nn.Module:
    """`vgg11` with batch normalization after each convolution; 132,868,840 parameters with 1000 classes."""
    return Vgg(VGG11, classes, norm=True)


def vgg16(classes: int = 1000) -> nn.Module:
    """VGG-16: thirteen convolutions and three fully connected layers; 138,357,544 parameters with 1000 classes.

    Returns:
        A module that takes ``(N, 3, 224, 224)``, or another height and width of at least 32, and returns logits
        ``(N, classes)``.
    """
    return Vgg(VGG16, classes)


def vgg16_bn(classes: int = 1000) -> nn.Module:
    """`vgg16` with batch normalization after each convolution; 138,365,992 parameters with 1000 classes."""
    return Vgg(VGG16, classes, norm=True)


class Vgg(nn.Module):
    """Five stages of convolutions with a max-pool each, and three fully connected layers.

    The first fully connected layer has ``512 * 7 * 7 * 4096`` weights, three quarters of the network; NiN and later
    networks replace it with global average pooling.

    Args:
        depths: convolutions per stage.
        classes: number of classes.
        norm: add batch normalization, which is newer than the paper, after each convolution. The convolutions keep
            their bias, as in torchvision's weights.
    """

    def __init__(self, depths: Sequence[int], classes: int, *, norm: bool = False) -> None:
        super().__init__()
        # One flat list, since torchvision's state dict uses the list indices as names.
        layers: list[nn.Module] = []
        channels = 3
        for width, depth in zip(WIDTHS, depths, strict=True):
            for _ in range(depth):
                layers.append(nn.Conv2d(channels, width, 3, padding=1))
                if norm:
                    layers.append(nn.BatchNorm2d(width))
                layers.append(ReLU())
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        # No effect at 224 x 224, where the map is already 7 x 7; it makes other image sizes fit the linear layer.
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            ReLU(),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            ReLU(),
            nn.Dropout(0.5),
            nn.Linear(4096, classes),
        )
        initialize(self, slope=0.0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.flatten(self.avgpool(self.features(images))))
        return logits
