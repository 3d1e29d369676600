"""Building blocks of ImageNet classifiers: residual, bottleneck, inverted residual, Inception, dense.

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
"""Epsilon of GoogLeNet, whose weights were trained in TensorFlow."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection (He et al. 2015, figure 5, left).

    Args:
        in_channels: channels of the input.
        width: channels of both convolutions, and of the output.
        stride: stride of the first convolution. If the output shape differs from the input shape, a 1x1 convolution
            projects the input.
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
        self.downsample = _projection(in_channels, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        shortcut = x if self.downsample is None else self.downsample(x)
        y: torch.Tensor = self.relu(branch + shortcut)
        return y

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The normalization that scales the residual branch."""
        return self.bn2


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a residual connection (He et al. 2015, figure 5, right).

    The 3x3 convolution has the stride, as torchvision's weights need; in the paper the first 1x1 convolution has it.

    Args:
        in_channels: channels of the input.
        width: channels of the 3x3 convolution; the output has four times as many.
        stride: stride of the 3x3 convolution.
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
        self.downsample = _projection(in_channels, out_channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        shortcut = x if self.downsample is None else self.downsample(x)
        y: torch.Tensor = self.relu(branch + shortcut)
        return y

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The normalization that scales the residual branch."""
        return self.bn3


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class ConvSame(nn.Conv2d):
    """A convolution with TensorFlow's ``SAME`` padding: the output size is ``ceil(size / stride)`` px.

    For an odd padding, the extra pixel is at the right and bottom. PyTorch only pads symmetrically, so the padding is
    separate here; the graph passes merge it into ONNX's Conv, which supports asymmetric padding.
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
    """Convolution, batch normalization and ReLU6, ``min(max(0, x), 6)``, whose bounded range helps quantization.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel: kernel size; the padding is half of it.
        stride: stride of the convolution.
        groups: number of groups; the number of channels makes it depthwise.
        same: use TensorFlow's padding, see `ConvSame`.
        epsilon: epsilon of the normalization.
    """
    # With stride 1 both paddings are equal.
    conv = (
        ConvSame(in_channels, out_channels, kernel, stride=stride, groups=groups, bias=False)
        if same and stride > 1
        else nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    )
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels, eps=epsilon), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and projection (Sandler et al. 2018, figure 4).

    The depthwise convolution is cheap, so it runs on ``expansion`` times the channels. The projection has no
    activation, since a ReLU on few channels loses information. If input and output have the same shape, the input is
    added.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        expansion: factor of the channels; 1 omits the expansion layer.
        kernel: kernel size of the depthwise convolution.
        stride: stride of the depthwise convolution.
        same: use TensorFlow's padding, see `ConvSame`.
        epsilon: epsilon of the normalizations.
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
        """The normalization that scales the residual branch."""
        norm = self.conv[-1]
        assert isinstance(norm, nn.BatchNorm2d)
        return norm


class ConvBatchNormReLU(nn.Module):
    """Convolution, batch normalization and ReLU, named as in torchvision's GoogLeNet.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel: kernel size; the padding is half of it.
        stride: stride of the convolution.
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
    """Concatenates four branches of different kernel sizes (Szegedy et al. 2014, figure 2b).

    1x1 convolutions reduce the channels before the expensive convolutions. The third branch is 5x5 in the paper and 3x3
    here, as in torchvision, to fit its weights.

    Args:
        in_channels: channels of the input.
        direct: channels of the 1x1 branch.
        middle: channels of the second branch: of its 1x1 and of its 3x3 convolution.
        large: channels of the third branch, likewise.
        pooled: channels of the branch with max-pool and 1x1 convolution.
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
    """Computes ``growth`` new channels with a 1x1 and a 3x3 convolution (Huang et al. 2016, section 3).

    Normalization and ReLU precede each convolution, since each reader of a feature map scales it separately.

    Args:
        in_channels: channels of the input.
        growth: channels of the output; there are four times as many between the convolutions.
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
    """Layers that each read the block's input and the outputs of all previous layers.

    Args:
        in_channels: channels of the input.
        layers: number of layers.
        growth: channels that each layer adds; the output has ``in_channels + layers * growth``.
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
    """Initializes weights for ReLU, with smaller weights where residual blocks need them.

    Residual branches start small, see `scale_branches`. The expansion layer of an inverted residual reads a linear
    output that no ReLU has halved, so its weights get half the variance.
    """
    initialize(module, slope=0.0)
    last_norms: list[nn.Module] = []
    for block in module.modules():
        if isinstance(block, InvertedResidual) and block.expansion > 1:
            expand = block.get_submodule("conv.0.0")
            assert isinstance(expand, nn.Conv2d)
            nn.init.kaiming_normal_(expand.weight, nonlinearity="linear")
        if isinstance(block, (BasicBlock, Bottleneck)) or (isinstance(block, InvertedResidual) and block.adds):
            last_norms.append(block.last_norm)
    scale_branches(last_norms)
