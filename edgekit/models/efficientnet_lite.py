"""EfficientNet-lite0: EfficientNet-B0 (Tan and Le 2019, arXiv:1905.11946) without operators that quantize poorly.

It has no squeeze-and-excitation, and ReLU6 replaces SiLU, which leaves MobileNet v2's block with kernels of 3 and 5.
The authors' weights were trained in TensorFlow, hence its SAME padding and epsilon. They are common as timm's
``tf_efficientnet_lite0``, so timm's tensor names are supported too.
"""

from __future__ import annotations

import re

import torch
from torch import nn

from edgekit.models.classifier_blocks import InvertedResidual, conv_norm_relu6, initialize_classifier

__all__ = ["EfficientNetLite", "efficientnet_lite0"]

NORM_EPSILON = 1e-3
"""Epsilon of batch normalization: TensorFlow's default."""

_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
"""Expansion, channels, number of blocks, stride of the first block, and kernel (table 1 of the paper)."""


_TIMM_BLOCK = re.compile(r"(\d)\.(\d)\.(\w+)\.(\w+)")
_TIMM_SEPARABLE = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
_TIMM_INVERTED = {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_pwl": "2", "bn3": "3"}
_TIMM_ENDS = {
    "conv_stem": "features.0.0",
    "bn1": "features.0.1",
    "conv_head": "features.17.0",
    "bn2": "features.17.1",
    "classifier": "classifier.1",
}
"""Tables from timm's names, ``blocks.STAGE.BLOCK.LAYER`` (stage 0 has no expansion) and stem and head layers."""


def efficientnet_lite0(classes: int = 1000) -> nn.Module:
    """EfficientNet-lite0: 4,652,008 parameters with 1000 classes.

    Returns:
        A module that takes ``(N, 3, H, W)`` and returns logits ``(N, classes)``.
    """
    return EfficientNetLite(classes)


class EfficientNetLite(nn.Module):
    """Stem, 16 inverted residuals, a convolution to 1280 channels, and a linear classifier."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_norm_relu6(3, 32, 3, stride=2, same=True, epsilon=NORM_EPSILON)]
        before = 32
        for expansion, channels, blocks, stride, kernel in _STAGES:
            for i in range(blocks):
                layers.append(
                    InvertedResidual(
                        before,
                        channels,
                        expansion=expansion,
                        kernel=kernel,
                        stride=stride if i == 0 else 1,
                        same=True,
                        epsilon=NORM_EPSILON,
                    )
                )
                before = channels
        layers.append(conv_norm_relu6(before, 1280, 1, epsilon=NORM_EPSILON))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))
        initialize_classifier(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Computes the logits of the classes."""
        x = self.avgpool(self.features(images))
        logits: torch.Tensor = self.classifier(torch.flatten(x, 1))
        return logits

    @staticmethod
    def own_name(published: str) -> str | None:
        """Maps timm's tensor names to this module's."""
        if match := _TIMM_BLOCK.fullmatch(published.removeprefix("blocks.")):
            stage, block, layer, tensor = match.groups()
            layers = _TIMM_INVERTED if int(stage) else _TIMM_SEPARABLE
            index = 1 + sum(blocks for _, _, blocks, _, _ in _STAGES[: int(stage)]) + int(block)
            return f"features.{index}.conv.{layers.get(layer, layer)}.{tensor}"
        part, _, tensor = published.partition(".")
        return f"{_TIMM_ENDS[part]}.{tensor}" if part in _TIMM_ENDS else published
