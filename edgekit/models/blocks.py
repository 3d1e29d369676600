"""Building blocks of the reference models.

Docstrings of Darknet blocks give the section names of its ``.cfg`` files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from edgekit.models.activations import LeakyReLU, ReLU

__all__ = [
    "ConvNormAct",
    "LocallyConnected",
    "MaxPoolSame",
    "NiNBlock",
    "Passthrough",
    "Residual",
    "SpatialPyramidPool",
    "initialize",
    "scale_branches",
]

LEAKY_SLOPE = 0.1
"""Slope of ``activation=leaky`` below zero (Darknet, ``activations.h``)."""

NORM_EPSILON = 1e-6
"""Epsilon of ``batch_normalize=1``, under the square root.

Darknet divides by ``sqrt(variance) + 1e-6`` on the CPU (``normalize_cpu`` in ``blas.c``) and, depending on its
version, by that or by ``sqrt(variance + 1e-5)`` on the GPU (``blas_kernels.cu``), so no single value is exact.
``sqrt(variance + 1e-6)`` is between the two, OpenCV's importer uses it, and for the authors' YOLOv3-tiny it differs
from Darknet on the CPU by at most 1 part in 25 000 in any channel.
"""


class ConvNormAct(nn.Module):
    """Convolution, batch normalization and activation: ``[convolutional]``.

    The convolution has no bias, since the normalization has one.

    Args:
        in_channels: channels of the input.
        out_channels: ``filters``.
        kernel: ``size``.
        stride: ``stride``.
        padding: padding on each side; default: half of the kernel (``pad=1``), which keeps height and width.
        groups: number of groups of the convolution; ``in_channels`` makes it depthwise.
        norm: ``batch_normalize``; if False, the convolution has a bias.
        epsilon: epsilon of the normalization, under the square root.
        act: the activation; default: Darknet's LeakyReLU; ``nn.Identity()`` for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        norm: bool = True,
        epsilon: float = NORM_EPSILON,
        act: nn.Module | None = None,
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride=stride, padding=padding, groups=groups, bias=not norm
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=epsilon) if norm else nn.Identity()
        self.act = LeakyReLU(LEAKY_SLOPE) if act is None else act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.act(self.norm(self.conv(x)))
        return y


class NiNBlock(nn.Module):
    """A convolution followed by two 1 x 1 convolutions, a small MLP at each pixel (Lin et al. 2013).

    The paper calls it ``mlpconv``: a linear filter only separates linearly separable features, so each patch goes
    through a multi-layer perceptron instead, with the same weights at every pixel.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the first two convolutions, and of the last unless ``last_channels`` is set.
        kernel: kernel size of the first convolution.
        stride: stride of the first convolution.
        padding: padding of the first convolution on each side.
        last_channels: channels of the last 1 x 1 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        last_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=padding)
        self.act = ReLU()
        self.mix1 = nn.Conv2d(out_channels, out_channels, 1)
        self.act1 = ReLU()
        self.mix2 = nn.Conv2d(out_channels, last_channels or out_channels, 1)
        self.act2 = ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.conv(x))
        x = self.act1(self.mix1(x))
        y: torch.Tensor = self.act2(self.mix2(x))
        return y


class Residual(nn.Module):
    """Bottleneck block with half the channels: two ``[convolutional]`` and a ``[shortcut]``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = ConvNormAct(channels, channels // 2, 1)
        self.expand = ConvNormAct(channels // 2, channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x + self.expand(self.reduce(x))
        return y


class MaxPoolSame(nn.Module):
    """Max-pool with stride 1 that keeps height and width: ``[maxpool]`` with ``stride=1``.

    Darknet pads by ``size - 1`` in total, ``(size - 1) // 2`` of it at the top and left, and ignores the padding
    (``maxpool_layer.c``). PyTorch only pads symmetrically, so even sizes are padded separately here; the graph passes
    merge this padding into ONNX's MaxPool, which supports asymmetric padding.
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
    """Concatenates three max-pools, largest first, and the input (``yolov3-spp.cfg``: ``layers=-1,-3,-5,-6``)."""

    def __init__(self) -> None:
        super().__init__()
        self.pool5 = MaxPoolSame(5)
        self.pool9 = MaxPoolSame(9)
        self.pool13 = MaxPoolSame(13)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.pool13(x), self.pool9(x), self.pool5(x), x), dim=1)


class Passthrough(nn.Module):
    """Space-to-depth that halves height and width: ``[reorg]`` with ``stride=2``.

    The channel order is unusual: Darknet reads the data as if it had ``stride**2`` times fewer channels, each
    ``stride`` times as high and wide, and takes every ``stride``-th value (``reorg_cpu`` in ``blas.c``, which is called
    with the input sizes). YOLOv2's weights were trained with this order.
    """

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        s = self.stride
        x = x.reshape(batch, channels * height // s**2, s, width, s).permute(0, 2, 4, 1, 3)
        return x.reshape(batch, channels * s**2, height // s, width // s)


class LocallyConnected(nn.Module):
    """A convolution with a separate kernel at every position: ``[local]``.

    It is computed as a grouped 1 x 1 convolution over the unfolded patches, with one group per position. Every backend
    has this operator, and INT8 gets one scale per kernel.

    Attributes:
        weight: kernels by position; shape ``(positions * out_channels, in_channels * kernel**2, 1, 1)``.
        bias: shape ``(out_channels, height, width)``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        size: tuple[int, int],
        *,
        stride: int = 1,
        padding: int = 0,
    ) -> None:
        super().__init__()
        height, width = ((side + 2 * padding - kernel) // stride + 1 for side in size)
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.weight = nn.Parameter(torch.empty(height * width * out_channels, in_channels * kernel**2, 1, 1))
        self.bias = nn.Parameter(torch.empty(out_channels, height, width))
        nn.init.kaiming_normal_(self.weight, a=LEAKY_SLOPE, nonlinearity="leaky_relu")
        # PyTorch's initialization of convolutions; zeros would be folded away and be missing from parameter counts.
        nn.init.uniform_(self.bias, -1 / math.sqrt(self.weight[0].numel()), 1 / math.sqrt(self.weight[0].numel()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch = x.shape[0]
        channels, height, width = self.bias.shape
        x = functional.pad(x, (self.padding,) * 4)
        rows = [x[:, :, row : row + self.stride * height : self.stride] for row in range(self.kernel)]
        seen = [
            row[..., column : column + self.stride * width : self.stride]
            for row in rows
            for column in range(self.kernel)
        ]
        patches = torch.stack(seen, dim=2).permute(0, 3, 4, 1, 2).reshape(batch, -1, 1, 1)
        bias = self.bias.permute(1, 2, 0).reshape(-1)
        y = functional.conv2d(patches, self.weight, bias, groups=height * width)
        return y.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def initialize(module: nn.Module, *, slope: float = LEAKY_SLOPE) -> None:
    """Initializes weights so that activations neither vanish nor explode at any depth.

    A layer that sums ``n`` products gets weights of variance ``2 / (n * (1 + slope**2))``, which keeps the magnitude of
    the input after the activation has removed half of it (He et al. 2015, arXiv:1502.01852). Biases are zero. The
    branches of `Residual` blocks start small, see `scale_branches`.

    Args:
        module: the module whose convolutions and fully connected layers are initialized.
        slope: slope of the activation for negative values; 0 for ReLU.
    """
    for block in module.modules():
        if isinstance(block, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(block.weight, a=slope, nonlinearity="leaky_relu")
            if block.bias is not None:
                nn.init.zeros_(block.bias)
    scale_branches([block.expand.norm for block in module.modules() if isinstance(block, Residual)])


def scale_branches(norms: Sequence[nn.Module]) -> None:
    """Initializes the scale of residual branches to ``1 / sqrt(number of branches)``.

    Otherwise each branch would double the variance: after the 23 branches of Darknet-53 the standard deviation would
    grow by a factor of 2900.

    Args:
        norms: the batch normalization that ends each branch.
    """
    for norm in norms:
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.constant_(norm.weight, 1 / math.sqrt(len(norms)))
