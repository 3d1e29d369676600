"""DenseNet-121 (Huang et al. 2016, arXiv:1608.06993): every layer reads the outputs of all previous layers.

ResNet adds feature maps; DenseNet concatenates them. All features are kept, so a layer needs only 32 new channels, and
the network is nearly as accurate as ResNet-50 with a third of its parameters. It needs more memory traffic, since the
input of each layer is larger than that of the previous one.

Submodules have torchvision's names, so that its weights fit.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from edgekit.models.activations import ReLU
from edgekit.models.classifier_blocks import DenseBlock, initialize_classifier

__all__ = ["DenseNet", "densenet121"]

_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""Weight files from before PyTorch 0.4.1, such as torchvision's, name the ``norm1`` of a dense layer ``norm.1``."""


def densenet121(classes: int = 1000) -> nn.Module:
    """DenseNet with blocks of 6, 12, 24 and 16 layers: 7,978,856 parameters with 1000 classes.

    Returns:
        A module that takes ``(N, 3, H, W)`` and returns logits ``(N, classes)``.
    """
    return DenseNet((6, 12, 24, 16), classes)


class DenseNet(nn.Module):
    """DenseNet-BC: dense blocks with bottlenecks, and transitions that halve the channels (table 1 of the paper).

    ::

                                             output
        conv0, pool0  7 x 7 and 3 x 3    64 x 56 x 56
        denseblock1    6 layers         256 x 56 x 56    transition1  to  128 x 28 x 28
        denseblock2   12 layers         512 x 28 x 28    transition2  to  256 x 14 x 14
        denseblock3   24 layers        1024 x 14 x 14    transition3  to  512 x  7 x  7
        denseblock4   16 layers        1024 x  7 x  7
        classifier    of the mean           classes

    Args:
        layers: number of layers of each dense block.
        classes: number of classes.
        growth: channels that each layer adds, ``k`` in the paper.
    """

    def __init__(self, layers: Sequence[int], classes: int, *, growth: int = 32) -> None:
        super().__init__()
        channels = 2 * growth
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        parts["conv0"] = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        parts["norm0"] = nn.BatchNorm2d(channels)
        parts["relu0"] = ReLU()
        parts["pool0"] = nn.MaxPool2d(3, stride=2, padding=1)
        for i, count in enumerate(layers, start=1):
            parts[f"denseblock{i}"] = DenseBlock(channels, count, growth)
            channels += count * growth
            if i < len(layers):
                parts[f"transition{i}"] = _transition(channels)
                channels //= 2
        parts["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(parts)
        self.classifier = nn.Linear(channels, classes)
        initialize_classifier(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Computes the logits of the classes."""
        x = functional.adaptive_avg_pool2d(functional.relu(self.features(images)), 1)
        logits: torch.Tensor = self.classifier(torch.flatten(x, 1))
        return logits

    @staticmethod
    def own_name(published: str) -> str | None:
        """Maps the tensor names of old files to torchvision's."""
        return _OLD_NAME.sub(r"\1\2", published)


def _transition(channels: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["norm"] = nn.BatchNorm2d(channels)
    layers["relu"] = ReLU()
    layers["conv"] = nn.Conv2d(channels, channels // 2, 1, bias=False)
    layers["pool"] = nn.AvgPool2d(2, stride=2)
    return nn.Sequential(layers)
