"""The output layer of YOLO models with anchors, and its initialization."""

from __future__ import annotations

import math

import torch
from torch import nn

__all__ = ["initialize_heads", "yolo_head"]

OBJECT_PRIOR = 0.01
"""Initial objectness of each box (Lin et al. 2017, arXiv:1708.02002, section 4.1)."""


def yolo_head(in_channels: int, anchors: int, classes: int) -> nn.Conv2d:
    """Creates a 1 x 1 convolution with outputs ``(x, y, w, h, objectness, classes...)`` for each anchor in turn."""
    return nn.Conv2d(in_channels, anchors * (5 + classes), 1)


def initialize_heads(module: nn.Module, anchors: int, classes: int) -> None:
    """Initializes direct child convolutions whose name starts with ``head``, with low objectness.

    A child may be a convolution with an activation, such as the sigmoid of Darknet's ``new_coords``.

    Untrained heads then detect almost nothing, as trained heads do in most cells, so decoding takes as long as for a
    trained model.
    """
    for name, child in module.named_children():
        head = getattr(child, "conv", child)
        if isinstance(head, nn.Conv2d) and name.startswith("head"):
            nn.init.normal_(head.weight, std=0.01)
            assert head.bias is not None
            nn.init.zeros_(head.bias)
            with torch.no_grad():
                head.bias.view(anchors, 5 + classes)[:, 4] = math.log(OBJECT_PRIOR / (1 - OBJECT_PRIOR))
