"""GoogLeNet (Szegedy et al. 2014, arXiv:1409.4842): nine Inception blocks, each with four parallel branches.

It won ImageNet 2014, ahead of VGG, with a twentieth of VGG's parameters: 1x1 convolutions reduce the channels before
the expensive convolutions, and global average pooling replaces VGG's fully connected layers.

This is torchvision's variant, so that its weights fit: batch normalization after every convolution, and 3x3 where the
paper has 5x5. The two auxiliary classifiers, which the paper uses only in training, are omitted; their weights in a
file are ignored.
"""

from __future__ import annotations

import torch
from torch import nn

from edgekit.models.classifier_blocks import ConvBatchNormReLU, Inception, initialize_classifier

__all__ = ["GoogLeNet", "googlenet"]


def googlenet(classes: int = 1000) -> nn.Module:
    """GoogLeNet without auxiliary classifiers: 6,624,904 parameters with 1000 classes.

    torchvision's weights need pixels from -1 to 1; its ``transform_input`` converts from ImageNet's mean and standard
    deviation. Here the recipe's preprocessing does this.

    Returns:
        A module that takes ``(N, 3, H, W)`` and returns logits ``(N, classes)``.
    """
    return GoogLeNet(classes)


class GoogLeNet(nn.Module):
    """The layers of table 1 of the paper; names use its numbers."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = ConvBatchNormReLU(3, 64, 7, stride=2)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = ConvBatchNormReLU(64, 64, 1)
        self.conv3 = ConvBatchNormReLU(64, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception3a = Inception(192, 64, (96, 128), (16, 32), 32)
        self.inception3b = Inception(256, 128, (128, 192), (32, 96), 64)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = Inception(480, 192, (96, 208), (16, 48), 64)
        self.inception4b = Inception(512, 160, (112, 224), (24, 64), 64)
        self.inception4c = Inception(512, 128, (128, 256), (24, 64), 64)
        self.inception4d = Inception(512, 112, (144, 288), (32, 64), 64)
        self.inception4e = Inception(528, 256, (160, 320), (32, 128), 128)
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.inception5a = Inception(832, 256, (160, 320), (32, 128), 128)
        self.inception5b = Inception(832, 384, (192, 384), (48, 128), 128)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(1024, classes)
        initialize_classifier(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Computes the logits of the classes."""
        x = self.maxpool2(self.conv3(self.conv2(self.maxpool1(self.conv1(images)))))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        x = self.inception4c(self.inception4b(self.inception4a(x)))
        x = self.maxpool4(self.inception4e(self.inception4d(x)))
        x = self.avgpool(self.inception5b(self.inception5a(x)))
        logits: torch.Tensor = self.fc(self.dropout(torch.flatten(x, 1)))
        return logits

    @staticmethod
    def own_name(published: str) -> str | None:
        """Keeps torchvision's tensor names; None for those of the auxiliary classifiers."""
        return None if published.startswith(("aux1.", "aux2.")) else published
