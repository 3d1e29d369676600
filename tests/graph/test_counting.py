"""Compares counts of whole models with hooks on PyTorch modules, PyTorch's own counter, and the papers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgekit.graph.export.module import graph_from_module
from edgekit.graph.passes import optimize
from edgekit.graph.stats import GraphStats, stats_from_graph
from edgekit.models.factory import module_from_recipe
from edgekit.recipe.schema import load_recipe, recipe_names
from edgekit.specs import TensorSpec

PUBLISHED = {
    "alexnet": 61_100_840,
    "densenet121": 7_978_856,
    "googlenet": 6_624_904,
    "mobilenet-v2": 3_504_872,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "vgg11": 132_863_336,
    "vgg11-bn": 132_868_840,
    "vgg16": 138_357_544,
    "vgg16-bn": 138_365_992,
    "yolov3": 61_949_149,
}
"""Parameters according to torchvision's documentation and the authors of YOLOv3."""
UNUSED = {
    # The pooler, whose answer nobody reads, and positions beyond the 128 of the input; what is left of the table of
    # positions is added up with that of token types before anything is run.
    "minilm": 384 * 384 + 384 + (512 - 128) * 384 + 2 * 384,
}
"""Parameters of a module that its graph does not have."""
LARGEST_QUICK = 2_000_000
QUICK = [name for name in recipe_names() if load_recipe(name).model.parameters < LARGEST_QUICK]
MODELS = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow, id=name) for name in recipe_names()]


class Hooks:
    """Counts MACs of each convolution and fully connected layer, from its weights and outputs."""

    def __init__(self, module: nn.Module) -> None:
        self.macs: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name, part in module.named_modules():
            if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Linear):
                part.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Any:
        def count(part: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            weight = part.get_parameter("weight")
            places = output.numel() // weight.shape[0]
            self.macs[name] = self.macs.get(name, 0) + places * weight.numel()
            self.shapes[name] = tuple(output.shape)

        return count


def counted(name: str) -> tuple[GraphStats, Hooks, int]:
    """Our counts of a recipe's graph, those of hooks, and MACs by PyTorch's own counter."""
    recipe = load_recipe(name)
    module = module_from_recipe(recipe, seed=0).eval()
    specs = [TensorSpec(spec.name, spec.dtype, spec.shape) for spec in recipe.inputs]
    stats = stats_from_graph(optimize(graph_from_module(module, specs, recipe.outputs)))
    # On the device "meta" nothing is computed but shapes.
    module = module.to("meta")
    hooks = Hooks(module)
    inputs = [torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype), device="meta") for spec in recipe.inputs]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return stats, hooks, counter.get_total_flops() // 2


@pytest.mark.parametrize("name", MODELS)
def test_counts_are_those_of_hooks_of_pytorch_and_of_the_paper(name: str) -> None:
    recipe = load_recipe(name)
    stats, hooks, macs = counted(name)
    assert (
        stats.parameters + UNUSED.get(name, 0)
        == recipe.model.parameters
        == PUBLISHED.get(name, recipe.model.parameters)
    )
    assert stats.macs == macs == recipe.macs
    rows = {layer.name: layer for layer in stats.layers if layer.macs}
    assert rows
    for layer, expected in hooks.macs.items():
        if layer in rows:
            assert rows[layer].macs == expected
            # A full layer on a sequence is one product of a matrix with as many rows as there are tokens.
            assert math.prod(rows[layer].output_shape) == math.prod(hooks.shapes[layer])


def test_all_published_numbers_are_of_recipes() -> None:
    assert set(PUBLISHED) <= set(recipe_names())
