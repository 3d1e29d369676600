"""VGG (Simonyan and Zisserman 2014, arXiv:1409.1556): nothing but 3 x 3 convolutions, and more of them.

Two of 3 x 3 see as far as one of 5 x 5, with 18 weights in place of 25 and one more activation between them; three see
as far as one of 7 x 7, with 27 in place of 49. Each stage halves height and width and doubles the channels, and so its
convolutions cost what those of the stage before do. Every net since is made of such stages.
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
"""Convolutions in each stage: columns A and D of the paper's table 1. With three full layers they make 11 and 16."""


def vgg11(classes: int = 1000) -> nn.Module:
    """Eight convolutions and three full layers; 132,863,336 parameters with 1000 classes.

    Returns:
        A module that takes ``(N, 3, 224, 224)``, or another height and width of 32 and more, and returns logits
        ``(N, classes)``.
    """
    return Vgg(VGG11, classes)


def vgg11_bn(classes: int = 1000) -> nn.Module:
    """`vgg11` with a batch normalization after each convolution; 132,868,840 parameters with 1000 classes."""
    return Vgg(VGG11, classes, norm=True)


def vgg16(classes: int = 1000) -> nn.Module:
    """Thirteen convolutions and three full layers; 138,357,544 parameters with 1000 classes.

    Returns:
        A module that takes ``(N, 3, 224, 224)``, or another height and width of 32 and more, and returns logits
        ``(N, classes)``.
    """
    return Vgg(VGG16, classes)


def vgg16_bn(classes: int = 1000) -> nn.Module:
    """`vgg16` with a batch normalization after each convolution; 138,365,992 parameters with 1000 classes."""
    return Vgg(VGG16, classes, norm=True)


class Vgg(nn.Module):
    """Five stages of convolutions, each ended by a max-pool, and three full layers.

    The first full layer has ``512 * 7 * 7 * 4096`` weights, three quarters of the whole net; NiN and all that follow it
    put an average over the map in its place.

    Args:
        depths: convolutions in each stage.
        classes: logits.
        norm: a batch normalization stands after each convolution, which the paper (2014) could not know of. The
            convolution keeps its bias all the same, as torchvision's weights have one.
    """

    def __init__(self, depths: Sequence[int], classes: int, *, norm: bool = False) -> None:
        super().__init__()
        # One flat list, since the names of torchvision's state dict are the places in it.
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
        # Nothing at 224 x 224, where the map is 7 x 7 already; pictures of other sizes are brought to it here.
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
