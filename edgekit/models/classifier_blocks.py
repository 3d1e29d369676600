"""The blocks that ImageNet's classifiers are composed of: residual, bottleneck, inverted residual, Inception, dense.

Submodules have torchvision's names, so that its weights fit.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

from edgekit.models.activations import ReLU
from edgekit.models.blocks import initialize, scale_branches

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "ConvBatchNormReLU",
    "ConvSame",
    "DenseBlock",
    "DenseLayer",
    "Inception",
    "InvertedResidual",
    "conv_norm_relu6",
    "initialize_classifier",
]

NORM_EPSILON = 1e-5
"""Epsilon of batch normalization, under the square root: PyTorch's default."""

INCEPTION_EPSILON = 1e-3
"""That of GoogLeNet, whose weights came from TensorFlow."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, and what came in added to what they found (He et al. 2015, figure 5, left).

    Args:
        in_channels: channels of the input.
        width: channels of both convolutions, and of the output.
        stride: of the first convolution. Where the output's shape differs from the input's, a convolution of size 1
            carries the input over.
    """

    expansion = 1
    """Channels of the output over ``width``."""

    def __init__(self, in_channels: int, width: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _carried_over(in_channels, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        carried = x if self.downsample is None else self.downsample(x)
        y: torch.Tensor = self.relu(found + carried)
        return y

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """What scales the branch before it is added."""
        return self.bn2


class Bottleneck(nn.Module):
    """1x1 to a quarter of the channels, 3x3 there, 1x1 back, and what came in added (He et al. 2015, figure 5, right).

    The stride is that of the 3x3 convolution, as torchvision's weights want it; in the paper it is the first one's.

    Args:
        in_channels: channels of the input.
        width: channels within; the output has four times as many.
        stride: of the 3x3 convolution.
    """

    expansion = 4
    """Channels of the output over ``width``."""

    def __init__(self, in_channels: int, width: int, *, stride: int = 1) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = ReLU()
        self.downsample = _carried_over(in_channels, out_channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.relu(self.bn1(self.conv1(x)))
        found = self.relu(self.bn2(self.conv2(found)))
        found = self.bn3(self.conv3(found))
        carried = x if self.downsample is None else self.downsample(x)
        y: torch.Tensor = self.relu(found + carried)
        return y

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """What scales the branch before it is added."""
        return self.bn3


def _carried_over(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class ConvSame(nn.Conv2d):
    """A convolution padded as TensorFlow's ``SAME``: ``ceil(size / stride)`` px come out.

    Where the padding is odd, the pixel more is on the right and below. PyTorch's own padding is even, so it is done
    here; the graph's passes merge it into ONNX's Conv, whose four paddings are free.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = (
            max((-(-size // stride) - 1) * stride + kernel - size, 0)
            for size, stride, kernel in zip(x.shape[2:], self.stride, self.kernel_size, strict=True)
        )
        x = functional.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


def conv_norm_relu6(
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    same: bool = False,
    epsilon: float = NORM_EPSILON,
) -> nn.Sequential:
    """Convolution, batch normalization, ReLU6: ``min(max(0, x), 6)``, whose range no calibration can miss.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel: the input is padded by half of it.
        stride: of the convolution.
        groups: as many as channels make it depthwise.
        same: pad as TensorFlow does, see `ConvSame`.
        epsilon: of the normalization.
    """
    # without a stride the two paddings are one
    conv = (
        ConvSame(in_channels, out_channels, kernel, stride=stride, groups=groups, bias=False)
        if same and stride > 1
        else nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    )
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels, eps=epsilon), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Widens, looks around in each channel by itself, narrows (Sandler et al. 2018, figure 4).

    A depthwise convolution costs so little that it is done on ``expansion`` times the channels. The narrow ends are
    linear, since a ReLU on few channels loses what no other channel has; where both are of one shape, the input is
    added.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        expansion: how much wider it is within; 1 leaves the widening out.
        kernel: of the depthwise convolution.
        stride: of the depthwise convolution.
        same: pad as TensorFlow does, see `ConvSame`.
        epsilon: of the normalizations.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        expansion: int,
        kernel: int = 3,
        stride: int = 1,
        same: bool = False,
        epsilon: float = NORM_EPSILON,
    ) -> None:
        super().__init__()
        wide = in_channels * expansion
        layers: list[nn.Module] = [conv_norm_relu6(in_channels, wide, 1, epsilon=epsilon)] if expansion > 1 else []
        layers.append(conv_norm_relu6(wide, wide, kernel, stride=stride, groups=wide, same=same, epsilon=epsilon))
        layers.append(nn.Conv2d(wide, out_channels, 1, bias=False))
        layers.append(nn.BatchNorm2d(out_channels, eps=epsilon))
        self.conv = nn.Sequential(*layers)
        self.expansion = expansion
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return x + y if self.adds else y

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """What scales the branch before it is added."""
        norm = self.conv[-1]
        assert isinstance(norm, nn.BatchNorm2d)
        return norm


class ConvBatchNormReLU(nn.Module):
    """Convolution, batch normalization, ReLU, under the names that torchvision's GoogLeNet has for them.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel: the input is padded by half of it.
        stride: of the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=INCEPTION_EPSILON)
        self.relu = ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.relu(self.bn(self.conv(x)))
        return y


class Inception(nn.Module):
    """Looks at several sizes at once: four branches, side by side in the output (Szegedy et al. 2014, figure 2b).

    Convolutions of size 1 before the dear ones reduce the channels. The third branch is 5x5 in the paper and 3x3 in
    torchvision, whose weights decide here.

    Args:
        in_channels: channels of the input.
        direct: channels of the branch of a 1x1 convolution.
        middle: channels of the second branch: reduced, and out of its 3x3 convolution.
        large: those of the third.
        pooled: channels of the branch of a max-pool and a 1x1 convolution.
    """

    def __init__(
        self, in_channels: int, direct: int, middle: tuple[int, int], large: tuple[int, int], pooled: int
    ) -> None:
        super().__init__()
        self.branch1 = ConvBatchNormReLU(in_channels, direct, 1)
        self.branch2 = _reduced(in_channels, *middle)
        self.branch3 = _reduced(in_channels, *large)
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), ConvBatchNormReLU(in_channels, pooled, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)), dim=1)


def _reduced(in_channels: int, reduced: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(ConvBatchNormReLU(in_channels, reduced, 1), ConvBatchNormReLU(reduced, out_channels, 3))


class DenseLayer(nn.Module):
    """What one layer adds: ``growth`` channels, found by a 1x1 and a 3x3 convolution (Huang et al. 2016, section 3).

    Normalization and ReLU stand before each convolution, since what a layer reads is scaled anew for each reader.

    Args:
        in_channels: channels of the input.
        growth: channels of the output; there are four times as many between the two convolutions.
    """

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = ReLU()
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.relu2 = ReLU()
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(self.relu1(self.norm1(x)))
        y: torch.Tensor = self.conv2(self.relu2(self.norm2(x)))
        return y


class DenseBlock(nn.Sequential):
    """Layers of which each reads the block's input and all that the layers before it have found.

    Args:
        in_channels: channels of the input.
        layers: how many.
        growth: channels that each adds; the output has ``in_channels + layers * growth``.
    """

    def __init__(self, in_channels: int, layers: int, growth: int) -> None:
        super().__init__(
            OrderedDict((f"denselayer{i + 1}", DenseLayer(in_channels + i * growth, growth)) for i in range(layers))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = torch.cat((x, layer(x)), dim=1)
        return x


def initialize_classifier(module: nn.Module) -> None:
    """Random weights as `initialize` draws them for ReLU, and what residual blocks need besides.

    A branch that is added starts small, see `scale_branches`. What reads the linear end of an inverted residual loses
    nothing to a ReLU, so its weights have half of the variance.
    """
    initialize(module, slope=0.0)
    last_norms: list[nn.Module] = []
    for block in module.modules():
        if isinstance(block, InvertedResidual) and block.expansion > 1:
            widening = block.get_submodule("conv.0.0")
            assert isinstance(widening, nn.Conv2d)
            nn.init.kaiming_normal_(widening.weight, nonlinearity="linear")
        if isinstance(block, (BasicBlock, Bottleneck)) or (isinstance(block, InvertedResidual) and block.adds):
            last_norms.append(block.last_norm)
    scale_branches(last_norms)
