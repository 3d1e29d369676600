"""YOLOv1 and YOLOv1-tiny (Redmon et al. 2016, arXiv:1506.02640), from the paper and the ``.cfg`` files.

In the paper, two fully connected layers with 4096 and 7 x 7 x 30 outputs follow the 24 convolutions. The authors'
published weights are for a later network: its first fully connected layer is locally connected instead, and each cell
predicts three boxes, so the second has 7 x 7 x 35 outputs. `yolov1` is the network of the paper; `yolov1_local` fits
the published weights.

The fully connected layers fix the image size. Submodules are in the order of Darknet's layers, which is the order of
the values in ``.weights`` files.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from edgekit.models.activations import LeakyReLU
from edgekit.models.blocks import LEAKY_SLOPE, ConvNormAct, LocallyConnected, initialize

__all__ = ["CellGrid", "YoloV1", "YoloV1Tiny", "initialize_cells", "yolov1", "yolov1_local", "yolov1_tiny"]

SIDE = 7
"""Number of cell rows and columns: 448 px in cells of 64 px."""


def yolov1(classes: int = 20, *, boxes: int = 2) -> nn.Module:
    """YOLOv1 as in the paper (figure 3): 24 convolutions and two fully connected layers, 7 x 7 x 30 with 20 classes.

    Args:
        classes: number of classes.
        boxes: boxes per cell.

    Returns:
        A module that takes ``(N, 3, 448, 448)`` and returns a tensor ``(N, classes + 5 * boxes, 7, 7)``.
    """
    return YoloV1(_first_full_layer(), 4096, classes, boxes)


def yolov1_local(classes: int = 20, *, boxes: int = 3) -> nn.Module:
    """YOLOv1 as in ``yolov1.cfg``, whose weights are published: 197,301,875 parameters with 20 classes.

    Returns:
        A module that takes ``(N, 3, 448, 448)`` and returns a tensor ``(N, classes + 5 * boxes, 7, 7)``.
    """
    return YoloV1(_first_full_layer_local(), SIDE * SIDE * 256, classes, boxes)


def yolov1_tiny(classes: int = 20, *, boxes: int = 2) -> nn.Module:
    """YOLOv1-tiny as in ``yolov1-tiny.cfg``: eight convolutions and one fully connected layer.

    Returns:
        A module that takes ``(N, 3, 448, 448)`` and returns a tensor ``(N, classes + 5 * boxes, 7, 7)``.
    """
    return YoloV1Tiny(classes, boxes)


class Backbone(nn.Module):
    """The 24 convolutions of the paper's figure 3."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(OrderedDict(conv1=ConvNormAct(3, 64, 7, stride=2)))
        self.pool1 = nn.MaxPool2d(2)
        self.stage2 = _stage(64, [(192, 3)])
        self.pool2 = nn.MaxPool2d(2)
        self.stage3 = _stage(192, [(128, 1), (256, 3), (256, 1), (512, 3)])
        self.pool3 = nn.MaxPool2d(2)
        self.stage4 = _stage(512, [(256, 1), (512, 3)] * 4 + [(512, 1), (1024, 3)])
        self.pool4 = nn.MaxPool2d(2)
        self.stage5 = _stage(1024, [(512, 1), (1024, 3)] * 2 + [(1024, 3)])
        self.down = ConvNormAct(1024, 1024, 3, stride=2)
        self.stage6 = _stage(1024, [(1024, 3), (1024, 3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes features at stride 64."""
        x = self.pool1(self.stage1(x))
        x = self.pool2(self.stage2(x))
        x = self.pool3(self.stage3(x))
        x = self.pool4(self.stage4(x))
        y: torch.Tensor = self.stage6(self.down(self.stage5(x)))
        return y


class CellGrid(nn.Module):
    """Reorders the output of Darknet's ``[detection]`` by cell.

    Darknet stores the class probabilities of all cells, then the confidences of all boxes, then ``x, y, w, h`` of all
    boxes. This converts ``(N, side * side * (classes + 5 * boxes))`` to ``(N, classes + 5 * boxes, side, side)``, in
    the same order within a cell.
    """

    def __init__(self, side: int, boxes: int, classes: int) -> None:
        super().__init__()
        self.side = side
        self.sizes = (classes, boxes, 4 * boxes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.split(x, [self.side**2 * size for size in self.sizes], dim=1)
        cells = [row.reshape(-1, self.side, self.side, size) for row, size in zip(rows, self.sizes, strict=True)]
        return torch.cat(cells, dim=3).permute(0, 3, 1, 2)


class YoloV1(nn.Module):
    """Backbone, first fully connected layer, and output layer."""

    def __init__(self, full: nn.Module, features: int, classes: int, boxes: int) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.full = full
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout()
        self.head64 = nn.Linear(features, SIDE * SIDE * (classes + 5 * boxes))
        self.cells = CellGrid(SIDE, boxes, classes)
        initialize(self)
        initialize_cells(self.head64)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Computes the raw output at stride 64."""
        features = self.dropout(self.flatten(self.full(self.backbone(images))))
        y: torch.Tensor = self.cells(self.head64(features))
        return y


class YoloV1Tiny(nn.Module):
    """Six convolutions with max-pools, two more convolutions, and the fully connected output layer."""

    def __init__(self, classes: int, boxes: int) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        in_channels = 3
        for i, channels in enumerate([16, 32, 64, 128, 256, 512], start=1):
            layers[f"conv{i}"] = ConvNormAct(in_channels, channels, 3)
            layers[f"pool{i}"] = nn.MaxPool2d(2)
            in_channels = channels
        layers["conv7"] = ConvNormAct(512, 1024, 3)
        layers["conv8"] = ConvNormAct(1024, 256, 3)
        self.backbone = nn.Sequential(layers)
        self.flatten = nn.Flatten()
        self.head64 = nn.Linear(SIDE * SIDE * 256, SIDE * SIDE * (classes + 5 * boxes))
        self.cells = CellGrid(SIDE, boxes, classes)
        initialize(self)
        initialize_cells(self.head64)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Computes the raw output at stride 64."""
        y: torch.Tensor = self.cells(self.head64(self.flatten(self.backbone(images))))
        return y


def _stage(in_channels: int, convolutions: list[tuple[int, int]]) -> nn.Sequential:
    """Creates convolutions from pairs of channels and kernel size."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (channels, kernel) in enumerate(convolutions, start=1):
        layers[f"conv{i}"] = ConvNormAct(in_channels, channels, kernel)
        in_channels = channels
    return nn.Sequential(layers)


def _first_full_layer_local() -> nn.Module:
    local = LocallyConnected(1024, 256, 3, (SIDE, SIDE), padding=1)
    return nn.Sequential(OrderedDict(local=local, act=LeakyReLU(LEAKY_SLOPE)))


def _first_full_layer() -> nn.Module:
    full = nn.Linear(SIDE * SIDE * 1024, 4096)
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), full=full, act=LeakyReLU(LEAKY_SLOPE)))


def initialize_cells(head: nn.Linear) -> None:
    """Initializes weights near 0, so that an untrained head detects almost nothing."""
    nn.init.normal_(head.weight, std=0.001)
    nn.init.zeros_(head.bias)
