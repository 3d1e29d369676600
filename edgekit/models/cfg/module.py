"""A Darknet network as a PyTorch module, with one submodule per layer, in Darknet's order."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from edgekit.models.activations import LeakyReLU, Mish, ReLU, Sigmoid, SiLU, Softmax, Tanh
from edgekit.models.blocks import (
    LEAKY_SLOPE,
    NORM_EPSILON,
    ConvNormAct,
    LocallyConnected,
    MaxPoolSame,
    Passthrough,
    initialize,
    scale_branches,
)
from edgekit.models.cfg.layers import IMAGE, Layer, Network
from edgekit.models.cfg.sections import network_from_cfg
from edgekit.models.yolo_head import initialize_heads
from edgekit.models.yolov1 import CellGrid, initialize_cells

__all__ = ["DarknetNetwork", "module_from_cfg"]


def module_from_cfg(path: str, height: int, width: int) -> nn.Module:
    """Creates the network in a cfg file, with random weights.

    Args:
        path: the file.
        height: height of the input in px.
        width: width of the input in px.

    Returns:
        A module that takes ``(N, channels, height, width)`` and returns the raw outputs of its heads in file order: one
        tensor, or a tuple of tensors. A classifier returns logits ``(N, classes)``; any other network returns the
        output of its last layer.

    Raises:
        RecipeError: the file is invalid or not supported; names the line.
    """
    return DarknetNetwork(network_from_cfg(Path(path), (height, width)))


class DarknetNetwork(nn.Module):
    """Runs layers in order; each may read any earlier layer."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.layers = [layer for layer in network.layers if layer.kind not in ("region", "yolo")]
        self.outputs = network.outputs()
        self.classifies = network.classifies
        self.names = network.names()
        self._last_reader = {source: layer.index for layer in self.layers for source in layer.sources}
        for layer in self.layers:
            self.add_module(self.names[layer.index], _MAKERS[layer.kind](layer))
        initialize(self)
        self._scale_shortcuts()
        for head in network.heads:
            part = self.get_submodule(self.names[head.predicts])
            if isinstance(full := getattr(part, "full", None), nn.Linear):
                initialize_cells(full)
        if network.heads and network.heads[0].anchors:
            initialize_heads(self, len(network.heads[0].anchors), network.heads[0].classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Computes the raw heads, the logits, or the output of the last layer."""
        values = {IMAGE: images}
        for layer in self.layers:
            part = self.get_submodule(self.names[layer.index])
            values[layer.index] = part(*(values[source] for source in layer.sources))
            for source in layer.sources:
                if self._last_reader[source] == layer.index and source not in self.outputs:
                    values.pop(source, None)
        if self.classifies:
            return values[self.outputs[0]].flatten(1)
        return values[self.outputs[0]] if len(self.outputs) == 1 else tuple(values[index] for index in self.outputs)

    def _scale_shortcuts(self) -> None:
        """Initializes residual branches to a small scale, as in the handwritten modules."""
        shortcuts = [layer for layer in self.layers if layer.kind == "shortcut" and layer.index > 0]
        before = [getattr(self, self.names[layer.index - 1], None) for layer in shortcuts]
        norms = [part.norm for part in before if isinstance(part, ConvNormAct)]
        scale_branches([norm for norm in norms if isinstance(norm, nn.BatchNorm2d)])


class Ramp(nn.Module):
    """``activation=ramp``: slope 1.1 above zero and 0.1 below it (``ramp_activate`` in ``activations.h``)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) + 0.1 * x


class PaddedMaxPool(nn.Module):
    """``[maxpool]`` with windows that extend beyond the feature map; the padding is never the maximum."""

    def __init__(self, size: int, stride: int, padding: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.padding = padding
        self.pool = nn.MaxPool2d(size, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.pool(functional.pad(x, self.padding, value=-math.inf))
        return y


class Concatenation(nn.Module):
    """``[route]``: concatenates the channels of layers, or one of ``groups`` equal parts of each layer's channels."""

    def __init__(self, groups: int = 1, group: int = 0) -> None:
        super().__init__()
        self.groups, self.group = groups, group

    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        if self.groups > 1:
            parts = tuple(part.chunk(self.groups, dim=1)[self.group] for part in parts)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class Sum(nn.Module):
    """``[shortcut]``: adds two layers, with an activation."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = self.act(x + y)
        return z


class Crop(nn.Module):
    """``[crop]`` in inference: the center crop and, without ``noadjust``, values from -1 to 1."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        source = layer.source_shapes[0]
        self.height, self.width = layer.shape[1:]
        self.top, self.left = (source.height - self.height) // 2, (source.width - self.width) // 2
        self.adjust = layer.adjust

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, :, self.top : self.top + self.height, self.left : self.left + self.width]
        return 2 * x - 1 if self.adjust else x


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "hardtan": nn.Hardtanh,
    "leaky": lambda: LeakyReLU(LEAKY_SLOPE),
    "linear": nn.Identity,
    "logistic": Sigmoid,
    "mish": Mish,
    "ramp": Ramp,
    "relie": lambda: LeakyReLU(0.01),
    "relu": ReLU,
    "selu": nn.SELU,
    "swish": SiLU,
    "tanh": Tanh,
}


def _act(layer: Layer) -> nn.Module:
    return ACTIVATIONS[layer.activation]()


def _convolutional(layer: Layer) -> nn.Module:
    channels = layer.source_shapes[0].channels
    if layer.norm or layer.activation != "linear":
        return ConvNormAct(
            channels,
            layer.filters,
            layer.size,
            stride=layer.stride,
            padding=layer.padding,
            groups=layer.groups,
            norm=layer.norm,
            act=_act(layer),
        )
    return nn.Conv2d(
        channels, layer.filters, layer.size, stride=layer.stride, padding=layer.padding, groups=layer.groups
    )


def _local(layer: Layer) -> nn.Module:
    source = layer.source_shapes[0]
    local = LocallyConnected(
        source.channels, layer.filters, layer.size, source[1:], stride=layer.stride, padding=layer.padding
    )
    return nn.Sequential(OrderedDict(local=local, act=_act(layer)))


def _connected(layer: Layer) -> nn.Module:
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["flatten"] = nn.Flatten()
    parts["full"] = nn.Linear(layer.source_shapes[0].numbers, layer.filters, bias=not layer.norm)
    if layer.norm:
        parts["norm"] = nn.BatchNorm1d(layer.filters, eps=NORM_EPSILON)
    parts["act"] = _act(layer)
    # Layers that need a height and width may follow.
    parts["shape"] = nn.Unflatten(1, (layer.filters, 1, 1))
    return nn.Sequential(parts)


def _maxpool(layer: Layer) -> nn.Module:
    if layer.stride == 1 and layer.padding == layer.size - 1:
        return MaxPoolSame(layer.size)
    padding_before = layer.padding // 2
    missing = [
        (out - 1) * layer.stride + layer.size - padding_before - source
        for out, source in zip(layer.shape[1:], layer.source_shapes[0][1:], strict=True)
    ]
    if padding_before == 0 and max(missing) <= 0:
        return nn.MaxPool2d(layer.size, layer.stride)
    below, right = (max(each, 0) for each in missing)
    return PaddedMaxPool(layer.size, layer.stride, (padding_before, right, padding_before, below))


def _detection(layer: Layer) -> nn.Module:
    classes = layer.shape.channels - 5 * layer.boxes
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), cells=CellGrid(layer.shape.height, layer.boxes, classes)))


_MAKERS: dict[str, Callable[[Layer], nn.Module]] = {
    "activation": _act,
    "avgpool": lambda layer: nn.AdaptiveAvgPool2d(1),
    "connected": _connected,
    "convolutional": _convolutional,
    "cost": lambda layer: nn.Identity(),
    "crop": Crop,
    "detection": _detection,
    "dropout": lambda layer: nn.Identity(),
    "local": _local,
    "maxpool": _maxpool,
    "reorg": lambda layer: Passthrough(layer.stride),
    "route": lambda layer: Concatenation(layer.groups, layer.group),
    "shortcut": lambda layer: Sum(_act(layer)),
    "softmax": lambda layer: Softmax(dim=1),
    "upsample": lambda layer: nn.Upsample(scale_factor=layer.stride, mode="nearest"),
}
