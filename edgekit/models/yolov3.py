"""YOLOv3, YOLOv3-tiny and YOLOv3-SPP (Redmon and Farhadi 2018, arXiv:1804.02767), from the ``.cfg`` files.

Each module returns the raw outputs of its heads, coarse to fine, without decoding. Submodules are in the order of
Darknet's layers, which is the order of the values in ``.weights`` files. Submodules at stride 32, 16 or 8 have the
stride in their name.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from edgekit.models.blocks import ConvNormAct, MaxPoolSame, Residual, SpatialPyramidPool, initialize
from edgekit.models.yolo_head import initialize_heads, yolo_head

__all__ = ["YoloV3", "YoloV3Tiny", "yolov3", "yolov3_spp", "yolov3_tiny"]

ANCHORS = 3
"""Boxes per cell of each head; their sizes are in the recipe."""


def yolov3(classes: int = 80) -> nn.Module:
    """YOLOv3 as in ``yolov3.cfg``: Darknet-53 and three heads, 61,949,149 parameters with 80 classes.

    Returns:
        A module that takes ``(N, 3, H, W)``, H and W multiples of 32, and returns three tensors
        ``(N, 3 * (5 + classes), H / s, W / s)`` for ``s`` = 32, 16, 8.
    """
    return YoloV3(classes)


def yolov3_spp(classes: int = 80) -> nn.Module:
    """YOLOv3 as in ``yolov3-spp.cfg``, with spatial pyramid pooling before the coarsest head."""
    return YoloV3(classes, pyramid=True)


def yolov3_tiny(classes: int = 80, *, width: float = 1.0) -> nn.Module:
    """YOLOv3-tiny as in ``yolov3-tiny.cfg``: seven convolutions and two heads, 8,852,366 parameters with 80 classes.

    Args:
        classes: number of classes.
        width: width multiplier of all channels, rounded to multiples of 8 (Howard et al. 2017, arXiv:1704.04861,
            section 3.3); the authors' weights only fit 1.

    Returns:
        A module that takes ``(N, 3, H, W)``, H and W multiples of 32, and returns two tensors
        ``(N, 3 * (5 + classes), H / s, W / s)`` for ``s`` = 32, 16.
    """
    return YoloV3Tiny(classes, width)


class Darknet53(nn.Module):
    """The backbone of YOLOv3 (table 1 of the paper), without the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, 32, 3)
        self.stage1 = _stage(64, blocks=1)
        self.stage2 = _stage(128, blocks=2)
        self.stage3 = _stage(256, blocks=8)
        self.stage4 = _stage(512, blocks=8)
        self.stage5 = _stage(1024, blocks=4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Computes features at strides 32, 16 and 8."""
        stride8 = self.stage3(self.stage2(self.stage1(self.stem(x))))
        stride16 = self.stage4(stride8)
        return self.stage5(stride16), stride16, stride8


class YoloV3(nn.Module):
    """Darknet-53, with a neck and a head for each of three strides, coarse to fine."""

    def __init__(self, classes: int, *, pyramid: bool = False) -> None:
        super().__init__()
        self.backbone = Darknet53()
        self.neck32 = _neck(1024, 512, pyramid=pyramid)
        self.expand32 = ConvNormAct(512, 1024, 3)
        self.head32 = yolo_head(1024, ANCHORS, classes)
        self.reduce16 = ConvNormAct(512, 256, 1)
        self.upsample16 = nn.Upsample(scale_factor=2, mode="nearest")
        self.neck16 = _neck(256 + 512, 256)
        self.expand16 = ConvNormAct(256, 512, 3)
        self.head16 = yolo_head(512, ANCHORS, classes)
        self.reduce8 = ConvNormAct(256, 128, 1)
        self.upsample8 = nn.Upsample(scale_factor=2, mode="nearest")
        self.neck8 = _neck(128 + 256, 128)
        self.expand8 = ConvNormAct(128, 256, 3)
        self.head8 = yolo_head(256, ANCHORS, classes)
        initialize(self)
        initialize_heads(self, ANCHORS, classes)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Computes the raw outputs at strides 32, 16 and 8."""
        stride32, stride16, stride8 = self.backbone(images)
        coarse = self.neck32(stride32)
        middle = self.neck16(torch.cat((self.upsample16(self.reduce16(coarse)), stride16), dim=1))
        fine = self.neck8(torch.cat((self.upsample8(self.reduce8(middle)), stride8), dim=1))
        return (
            self.head32(self.expand32(coarse)),
            self.head16(self.expand16(middle)),
            self.head8(self.expand8(fine)),
        )


class TinyBackbone(nn.Module):
    """Seven convolutions with max-pools; the last max-pool keeps height and width."""

    def __init__(self, width: float) -> None:
        super().__init__()
        channels = [_narrowed(16 << i, width) for i in range(7)]
        self.conv1 = ConvNormAct(3, channels[0], 3)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = ConvNormAct(channels[0], channels[1], 3)
        self.pool2 = nn.MaxPool2d(2)
        self.conv3 = ConvNormAct(channels[1], channels[2], 3)
        self.pool3 = nn.MaxPool2d(2)
        self.conv4 = ConvNormAct(channels[2], channels[3], 3)
        self.pool4 = nn.MaxPool2d(2)
        self.conv5 = ConvNormAct(channels[3], channels[4], 3)
        self.pool5 = nn.MaxPool2d(2)
        self.conv6 = ConvNormAct(channels[4], channels[5], 3)
        self.pool6 = MaxPoolSame(2)
        self.conv7 = ConvNormAct(channels[5], channels[6], 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes features at strides 32 and 16."""
        x = self.pool1(self.conv1(x))
        x = self.pool2(self.conv2(x))
        x = self.pool3(self.conv3(x))
        stride16 = self.conv5(self.pool4(self.conv4(x)))
        x = self.pool6(self.conv6(self.pool5(stride16)))
        return self.conv7(x), stride16


class YoloV3Tiny(nn.Module):
    """The tiny backbone, with a head for each of two strides."""

    def __init__(self, classes: int, width: float = 1.0) -> None:
        super().__init__()
        c128, c256, c512, c1024 = (_narrowed(channels, width) for channels in (128, 256, 512, 1024))
        self.backbone = TinyBackbone(width)
        self.neck32 = ConvNormAct(c1024, c256, 1)
        self.expand32 = ConvNormAct(c256, c512, 3)
        self.head32 = yolo_head(c512, ANCHORS, classes)
        self.reduce16 = ConvNormAct(c256, c128, 1)
        self.upsample16 = nn.Upsample(scale_factor=2, mode="nearest")
        self.expand16 = ConvNormAct(c128 + c256, c256, 3)
        self.head16 = yolo_head(c256, ANCHORS, classes)
        initialize(self)
        initialize_heads(self, ANCHORS, classes)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes the raw outputs at strides 32 and 16."""
        stride32, stride16 = self.backbone(images)
        coarse = self.neck32(stride32)
        fine = torch.cat((self.upsample16(self.reduce16(coarse)), stride16), dim=1)
        return self.head32(self.expand32(coarse)), self.head16(self.expand16(fine))


def _narrowed(channels: int, width: float) -> int:
    """Scales the channels to the nearest multiple of 8, the vector width of integer kernels."""
    return max(8, round(channels * width / 8) * 8)


def _stage(channels: int, *, blocks: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["down"] = ConvNormAct(channels // 2, channels, 3, stride=2)
    for i in range(1, blocks + 1):
        layers[f"block{i}"] = Residual(channels)
    return nn.Sequential(layers)


def _neck(in_channels: int, channels: int, *, pyramid: bool = False) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["reduce1"] = ConvNormAct(in_channels, channels, 1)
    layers["expand1"] = ConvNormAct(channels, 2 * channels, 3)
    layers["reduce2"] = ConvNormAct(2 * channels, channels, 1)
    if pyramid:
        layers["pyramid"] = SpatialPyramidPool()
        layers["merge"] = ConvNormAct(4 * channels, channels, 1)
    layers["expand2"] = ConvNormAct(channels, 2 * channels, 3)
    layers["reduce3"] = ConvNormAct(2 * channels, channels, 1)
    return nn.Sequential(layers)
