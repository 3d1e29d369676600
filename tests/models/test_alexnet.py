from __future__ import annotations

import re

import torch
from torch import nn

from edgekit.models.alexnet import AlexNet, alexnet


def test_the_table_in_the_docstring_is_correct() -> None:
    with torch.device("meta"):
        module = alexnet().eval()
    measured: list[tuple[tuple[int, ...], int, int]] = []

    def keep(layer: nn.Module, inputs: object, output: torch.Tensor) -> None:
        weight = layer.weight if isinstance(layer, (nn.Conv2d, nn.Linear)) else None
        macs = 0 if weight is None else output.numel() * weight[0].numel()
        measured.append((tuple(output.shape[1:]), sum(value.numel() for value in layer.parameters()), macs))

    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear, nn.MaxPool2d)):
            layer.register_forward_hook(keep)
    module(torch.empty(1, 3, 224, 224, device="meta"))
    lines = re.findall(r"  (\d+(?: x +\d+ x +\d+)?)(?: +([\d,]{5,}) +([\d,]+))?$", AlexNet.__doc__ or "", re.MULTILINE)
    assert [
        (tuple(int(size) for size in shape.split("x")), *(int(text.replace(",", "") or 0) for text in numbers))
        for shape, *numbers in lines
    ] == measured


def test_fully_connected_layers_have_the_share_in_the_docstring() -> None:
    with torch.device("meta"):
        module = alexnet()
    parameters = sum(parameter.numel() for parameter in module.parameters())
    full = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    assert round(sum(value.numel() for layer in full for value in layer.parameters()) / parameters, 2) == 0.96
    assert round(sum(layer.weight.numel() for layer in full) / 714_188_480, 2) == 0.08


def test_other_image_sizes_give_the_same_number_of_logits() -> None:
    with torch.device("meta"):
        module = alexnet(classes=7).eval()
    for height, width in ((63, 63), (224, 320), (256, 256)):
        assert module(torch.empty(2, 3, height, width, device="meta")).shape == (2, 7)
