"""MobileNet v2 (Sandler et al. 2018, arXiv:1801.04381): inverted residual blocks with linear bottlenecks.

A convolution needs ``k * k * in * out`` multiplications per pixel. A depthwise convolution followed by a 1 x 1
convolution needs ``k * k * in + in * out``, nearly nine times fewer at 3 x 3. This ImageNet classifier has 0.3 G MACs,
a fourteenth of ResNet-50. On hardware with wide integer units the speedup is smaller, since a depthwise convolution
does few multiplications per byte that it reads.

Submodules have torchvision's names, so that its weights fit.
"""

from __future__ import annotations

import torch
from torch import nn

from edgekit.models.classifier_blocks import InvertedResidual, conv_norm_relu6, initialize_classifier

__all__ = ["MobileNetV2", "mobilenet_v2"]

_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, number of blocks, and stride of the first block (table 2 of the paper)."""


def mobilenet_v2(classes: int = 1000) -> nn.Module:
    """MobileNet v2 with width multiplier 1: 3,504,872 parameters with 1000 classes.

    Returns:
        A module that takes ``(N, 3, H, W)`` and returns logits ``(N, classes)``.
    """
    return MobileNetV2(classes)


class MobileNetV2(nn.Module):
    """Stem, 17 inverted residuals, a convolution to 1280 channels, and a linear classifier.

    The stem and four blocks halve height and width, from 224 to 7; global average pooling follows.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_norm_relu6(3, 32, 3, stride=2)]
        before = 32
        for expansion, channels, blocks, stride in _STAGES:
            for i in range(blocks):
                layers.append(InvertedResidual(before, channels, expansion=expansion, stride=stride if i == 0 else 1))
                before = channels
        layers.append(conv_norm_relu6(before, 1280, 1))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))
        initialize_classifier(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Computes the logits of the classes."""
        x = self.avgpool(self.features(images))
        logits: torch.Tensor = self.classifier(torch.flatten(x, 1))
        return logits
