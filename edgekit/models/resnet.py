"""ResNet-18, -34 and -50 (He et al. 2015, arXiv:1512.03385): residual blocks.

A plain network of 34 layers trains worse than one of 18, since layers have difficulty learning the identity. A residual
block adds its output to its input, so an output of zero is the identity, and gradients pass through the sums
unchanged. This makes networks of hundreds of layers trainable.

Submodules have torchvision's names, so that its weights fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from edgekit.models.activations import ReLU
from edgekit.models.classifier_blocks import BasicBlock, Bottleneck, initialize_classifier

__all__ = ["ResNet", "resnet18", "resnet34", "resnet50"]


def resnet18(classes: int = 1000) -> nn.Module:
    """ResNet with two basic blocks in each group: 11,689,512 parameters with 1000 classes.

    Returns:
        A module that takes ``(N, 3, H, W)`` and returns logits ``(N, classes)``.
    """
    return ResNet(BasicBlock, (2, 2, 2, 2), classes)


def resnet34(classes: int = 1000) -> nn.Module:
    """ResNet with 3, 4, 6 and 3 basic blocks: 21,797,672 parameters with 1000 classes."""
    return ResNet(BasicBlock, (3, 4, 6, 3), classes)


def resnet50(classes: int = 1000) -> nn.Module:
    """ResNet with 3, 4, 6 and 3 bottleneck blocks: 25,557,032 parameters with 1000 classes."""
    return ResNet(Bottleneck, (3, 4, 6, 3), classes)


class ResNet(nn.Module):
    """Stem, four groups of residual blocks (table 1 of the paper), and a linear classifier.

    ::

                                      output    18      34      50
        conv1    7 x 7, stride 2   112 x 112
        maxpool  3 x 3, stride 2    56 x  56
        layer1                      56 x  56    2       3       3 blocks of   64 channels,  256 in ResNet-50
        layer2   stride 2           28 x  28    2       4       4            128            512
        layer3   stride 2           14 x  14    2       6       6            256           1024
        layer4   stride 2            7 x   7    2       3       3            512           2048
        fc       of the mean         classes
        MACs                                    1.81 G  3.66 G  4.09 G

    Args:
        block: the block class.
        blocks: number of blocks in each group.
        classes: number of classes.
    """

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], blocks: Sequence[int], classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _group(block, blocks[0], 64, 64)
        self.layer2 = _group(block, blocks[1], 64 * block.expansion, 128, stride=2)
        self.layer3 = _group(block, blocks[2], 128 * block.expansion, 256, stride=2)
        self.layer4 = _group(block, blocks[3], 256 * block.expansion, 512, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * block.expansion, classes)
        initialize_classifier(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Computes the logits of the classes."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: torch.Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def _group(
    block: type[BasicBlock] | type[Bottleneck], blocks: int, in_channels: int, width: int, *, stride: int = 1
) -> nn.Sequential:
    first = block(in_channels, width, stride=stride)
    return nn.Sequential(first, *(block(width * block.expansion, width) for _ in range(blocks - 1)))
