"""The blocks that the reference models are composed of.

Those of Darknet's models are named after what they are in its ``.cfg`` files.
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

Darknet divides by ``sqrt(variance) + 1e-6`` on the CPU (``normalize_cpu`` in ``blas.c``) and by
``sqrt(variance + 1e-5)`` or that on the GPU (``blas_kernels.cu``; it changed), so no one value is right.
``sqrt(variance + 1e-6)`` is between the two, is what OpenCV's importer takes, and scales no channel of the
authors' YOLOv3-tiny by more than 1 part in 25 000 otherwise than Darknet on the CPU does.
"""


class ConvNormAct(nn.Module):
    """Convolution, batch normalization, activation: ``[convolutional]``, and what most convolutions since 2015 are.

    The normalization has a bias of its own, so that the convolution before it needs none.

    Args:
        in_channels: channels of the input.
        out_channels: ``filters``.
        kernel: ``size``.
        stride: ``stride``.
        padding: on each side; half of the kernel (``pad=1``), which keeps height and width, if None.
        groups: each group of output channels reads its own group of input channels; ``in_channels`` makes the
            convolution depthwise.
        norm: ``batch_normalize``; without it the convolution has a bias.
        epsilon: of the normalization, under the square root.
        act: the activation; Darknet's LeakyReLU if None, ``nn.Identity()`` for none.
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
    """A convolution and two of size 1 after it: at each pixel a small net of full layers (Lin et al. 2013).

    The paper calls it ``mlpconv``: a linear filter only tells apart what a plane can part, so each patch is looked at
    by a multi-layer perceptron instead, whose weights are the same at every pixel.

    Args:
        in_channels: channels of the input.
        out_channels: of the first convolution, and of the last unless ``last_channels`` says otherwise.
        kernel: of the first convolution.
        stride: of the first convolution.
        padding: of the first convolution, on each side.
        last_channels: of the two convolutions of size 1.
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


class Passthrough(nn.Module):
    """Halves height and width and has four times the channels: ``[reorg]`` with ``stride=2``.

    Not in the way that one would expect: Darknet reads the numbers as if there were ``stride**2`` times fewer
    channels, each ``stride`` times as high and wide, and takes every ``stride``-th number of those (``reorg_cpu`` in
    ``blas.c``, which is called with the sizes of the input). YOLOv2's weights were trained on channels in that order.
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
    """A convolution that has a kernel of its own at every place: ``[local]``.

    Each place is a group of a convolution of size 1 over what its kernel sees: an operator that every backend has,
    and in INT8 one with a scale for every kernel.

    Attributes:
        weight: one place after the other; shape ``(places * out_channels, in_channels * kernel**2, 1, 1)``.
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
        # As convolutions of PyTorch begin; zeros would be folded away, and be missing from every count.
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
        places = torch.stack(seen, dim=2).permute(0, 3, 4, 1, 2).reshape(batch, -1, 1, 1)
        bias = self.bias.permute(1, 2, 0).reshape(-1)
        y = functional.conv2d(places, self.weight, bias, groups=height * width)
        return y.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def initialize(module: nn.Module, *, slope: float = LEAKY_SLOPE) -> None:
    """Random weights under which activations neither vanish nor explode, however deep the module.

    A layer sums ``n`` products, so its weights have the variance ``2 / (n * (1 + slope**2))``: what comes out is then
    as large as what went in, once the activation has cut half of it away (He et al. 2015, arXiv:1502.01852). Biases
    are zero. Every `Residual` starts small, see `scale_branches`.

    Args:
        module: its convolutions and full layers are drawn anew.
        slope: of the activation below zero: 0 for ReLU.
    """
    for block in module.modules():
        if isinstance(block, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(block.weight, a=slope, nonlinearity="leaky_relu")
            if block.bias is not None:
                nn.init.zeros_(block.bias)
    scale_branches([block.expand.norm for block in module.modules() if isinstance(block, Residual)])


def scale_branches(norms: Sequence[nn.Module]) -> None:
    """Starts branches that are added to what came in at ``1 / sqrt(number of them)``.

    Else each would double the variance: by the end of Darknet-53's 23 the standard deviation would have grown
    2900-fold.

    Args:
        norms: the batch normalization that ends each branch.
    """
    for norm in norms:
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.constant_(norm.weight, 1 / math.sqrt(len(norms)))
