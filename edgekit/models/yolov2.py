"""YOLOv2 and YOLOv2-tiny (Redmon and Farhadi 2017, arXiv:1612.08242), from the ``.cfg`` files.

Each module returns the raw output of its one head, without decoding. Submodules are in the order of Darknet's layers,
which is the order of the values in ``.weights`` files.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from edgekit.models.blocks import ConvNormAct, Passthrough, initialize
from edgekit.models.yolo_head import initialize_heads, yolo_head
from edgekit.models.yolov3 import TinyBackbone

__all__ = ["Darknet19", "YoloV2", "YoloV2Tiny", "yolov2", "yolov2_tiny"]

ANCHORS = 5
"""Boxes per cell; their sizes are in the recipe."""


def yolov2(classes: int = 80) -> nn.Module:
    """YOLOv2 as in ``yolov2.cfg`` and, with 20 classes, ``yolov2-voc.cfg``: 50,962,889 parameters with 80 classes.

    Returns:
        A module that takes ``(N, 3, H, W)``, H and W multiples of 32, and returns a tensor
        ``(N, 5 * (5 + classes), H / 32, W / 32)``.
    """
    return YoloV2(classes)


def yolov2_tiny(classes: int = 80, *, channels: int = 512) -> nn.Module:
    """YOLOv2-tiny as in ``yolov2-tiny.cfg``: 11,232,057 parameters with 80 classes.

    Args:
        classes: number of classes.
        channels: channels of the layer before the head; 1024 in ``yolov2-tiny-voc.cfg``.

    Returns:
        A module that takes ``(N, 3, H, W)``, H and W multiples of 32, and returns a tensor
        ``(N, 5 * (5 + classes), H / 32, W / 32)``.
    """
    return YoloV2Tiny(classes, channels)


class Darknet19(nn.Module):
    """The backbone of YOLOv2 (table 6 of the paper): 18 convolutions, without the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = _stage(3, [32])
        self.pool1 = nn.MaxPool2d(2)
        self.stage2 = _stage(32, [64])
        self.pool2 = nn.MaxPool2d(2)
        self.stage3 = _stage(64, [128, 64, 128])
        self.pool3 = nn.MaxPool2d(2)
        self.stage4 = _stage(128, [256, 128, 256])
        self.pool4 = nn.MaxPool2d(2)
        self.stage5 = _stage(256, [512, 256, 512, 256, 512])
        self.pool5 = nn.MaxPool2d(2)
        self.stage6 = _stage(512, [1024, 512, 1024, 512, 1024])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes features at strides 32 and 16."""
        x = self.pool1(self.stage1(x))
        x = self.pool2(self.stage2(x))
        x = self.pool3(self.stage3(x))
        x = self.pool4(self.stage4(x))
        stride16 = self.stage5(x)
        return self.stage6(self.pool5(stride16)), stride16


class YoloV2(nn.Module):
    """Darknet-19, two convolutions, concatenation with the reorganized finer features, a convolution, and the head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = Darknet19()
        self.conv19 = ConvNormAct(1024, 1024, 3)
        self.conv20 = ConvNormAct(1024, 1024, 3)
        self.reduce16 = ConvNormAct(512, 64, 1)
        self.passthrough = Passthrough(2)
        self.conv21 = ConvNormAct(4 * 64 + 1024, 1024, 3)
        self.head32 = yolo_head(1024, ANCHORS, classes)
        initialize(self)
        initialize_heads(self, ANCHORS, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Computes the raw output at stride 32."""
        stride32, stride16 = self.backbone(images)
        coarse = self.conv20(self.conv19(stride32))
        fine = self.passthrough(self.reduce16(stride16))
        y: torch.Tensor = self.head32(self.conv21(torch.cat((fine, coarse), dim=1)))
        return y


class YoloV2Tiny(nn.Module):
    """The seven convolutions of YOLOv3-tiny's backbone, one more, and the head."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.backbone = TinyBackbone(width=1.0)
        self.conv8 = ConvNormAct(1024, channels, 3)
        self.head32 = yolo_head(channels, ANCHORS, classes)
        initialize(self)
        initialize_heads(self, ANCHORS, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Computes the raw output at stride 32."""
        stride32, _ = self.backbone(images)
        y: torch.Tensor = self.head32(self.conv8(stride32))
        return y


def _stage(in_channels: int, channels: list[int]) -> nn.Sequential:
    """Creates alternating convolutions of size 3, which widen, and of size 1, which narrow."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, out_channels in enumerate(channels, start=1):
        layers[f"conv{i}"] = ConvNormAct(in_channels, out_channels, 3 if i % 2 else 1)
        in_channels = out_channels
    return nn.Sequential(layers)
