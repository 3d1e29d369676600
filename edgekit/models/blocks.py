"""The blocks that Darknet's models are made of, each named after what it is in the ``.cfg`` file."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

__all__ = ["ConvNormAct", "MaxPoolSame", "Residual", "SpatialPyramidPool", "initialize"]

LEAKY_SLOPE = 0.1
"""Slope of ``activation=leaky`` below zero (Darknet, ``activations.h``)."""

NORM_EPSILON = 1e-6
"""Epsilon of ``batch_normalize=1``, under the square root.

Darknet divides by ``sqrt(variance) + 1e-6`` on the CPU (``normalize_cpu`` in ``blas.c``) and by
``sqrt(variance + 1e-5)`` or that on the GPU (``blas_kernels.cu``; it changed), so no one value is right.
``sqrt(variance + 1e-6)`` is between the two, is what OpenCV's importer takes, and scales no channel of the
authors' YOLOv3-tiny by more than 1 part in 25 000 otherwise than Darknet on the CPU does.
"""


class ConvNormAct(nn.Module):
    """Convolution, batch normalization, LeakyReLU: ``[convolutional]`` with ``batch_normalize=1``.

    Args:
        in_channels: channels of the input.
        out_channels: ``filters``.
        kernel: ``size``; the input is padded by half of it (``pad=1``).
        stride: ``stride``.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=NORM_EPSILON)
        self.act = nn.LeakyReLU(LEAKY_SLOPE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.act(self.norm(self.conv(x)))
        return y


class Residual(nn.Module):
    """Halves the channels, restores them, and adds what came in: two ``[convolutional]`` and a ``[shortcut]``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = ConvNormAct(channels, channels // 2, 1)
        self.expand = ConvNormAct(channels // 2, channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x + self.expand(self.reduce(x))
        return y


class MaxPoolSame(nn.Module):
    """Max-pool of stride 1 that keeps height and width: ``[maxpool]`` with ``stride=1``.

    Darknet pads by ``size - 1`` in all, ``(size - 1) // 2`` of it above and to the left, and what it pads with
    never wins (``maxpool_layer.c``). PyTorch's own padding is as much below as above, so an even size is padded
    here; the graph's passes merge that into ONNX's MaxPool, whose four paddings are free.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.before = (kernel - 1) // 2
        self.after = kernel - 1 - self.before
        symmetric = self.before == self.after
        self.pool = nn.MaxPool2d(kernel, stride=1, padding=self.before if symmetric else 0)
        self.padding = None if symmetric else (self.before, self.after, self.before, self.after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.padding is not None:
            x = functional.pad(x, self.padding, value=-math.inf)
        y: torch.Tensor = self.pool(x)
        return y


class SpatialPyramidPool(nn.Module):
    """Max-pools of three sizes beside what came in, the widest first (``yolov3-spp.cfg``: ``layers=-1,-3,-5,-6``)."""

    def __init__(self) -> None:
        super().__init__()
        self.pool5 = MaxPoolSame(5)
        self.pool9 = MaxPoolSame(9)
        self.pool13 = MaxPoolSame(13)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.pool13(x), self.pool9(x), self.pool5(x), x), dim=1)


def initialize(module: nn.Module) -> None:
    """Random weights under which activations neither vanish nor explode, however deep the module.

    Convolutions by He et al. 2015 (arXiv:1502.01852) for the slope of their LeakyReLU. Every residual branch
    starts at ``1 / sqrt(number of branches)``, or else each would double the variance: by the end of
    Darknet-53's 23 the standard deviation would have grown 2900-fold.
    """
    branches = [block for block in module.modules() if isinstance(block, Residual)]
    for block in module.modules():
        if isinstance(block, nn.Conv2d):
            nn.init.kaiming_normal_(block.weight, a=LEAKY_SLOPE, nonlinearity="leaky_relu")
    for branch in branches:
        nn.init.constant_(branch.expand.norm.weight, 1 / math.sqrt(len(branches)))
