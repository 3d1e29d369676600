"""The layer that ends a YOLO with anchors, and what it predicts before it has learned anything."""

from __future__ import annotations

import math

import torch
from torch import nn

__all__ = ["initialize_heads", "yolo_head"]

OBJECT_PRIOR = 0.01
"""How probable an object is in each box before training (Lin et al. 2017, arXiv:1708.02002, section 4.1)."""


def yolo_head(in_channels: int, anchors: int, classes: int) -> nn.Conv2d:
    """A convolution of size 1 to ``(x, y, w, h, objectness, classes...)``, one anchor after the other."""
    return nn.Conv2d(in_channels, anchors * (5 + classes), 1)


def initialize_heads(module: nn.Module, anchors: int, classes: int) -> None:
    """Small weights and a rare object for the module's own convolutions whose name begins with ``head``.

    Untrained heads then find next to nothing, as trained ones do on most cells, and the time that decoding takes is
    that of a trained model.
    """
    for name, head in module.named_children():
        if isinstance(head, nn.Conv2d) and name.startswith("head"):
            nn.init.normal_(head.weight, std=0.01)
            assert head.bias is not None
            nn.init.zeros_(head.bias)
            with torch.no_grad():
                head.bias.view(anchors, 5 + classes)[:, 4] = math.log(OBJECT_PRIOR / (1 - OBJECT_PRIOR))
