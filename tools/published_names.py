"""Writes tests/models/published: names and shapes of the tensors in the weights that our classifiers take.

python -m tools.published_names needs torchvision and timm. The tables that it writes are what tests compare with where
neither is installed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

__all__ = ["FOLDER", "TORCHVISION", "classifier_of_timm", "classifier_of_torchvision", "table", "torchvision_models"]

FOLDER = Path(__file__).parents[1] / "tests" / "models" / "published"
TORCHVISION = {
    "alexnet": "alexnet",
    "vgg11": "vgg11",
    "vgg11-bn": "vgg11_bn",
    "vgg16": "vgg16",
    "vgg16-bn": "vgg16_bn",
    "googlenet": "googlenet",
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "densenet121": "densenet121",
    "mobilenet-v2": "mobilenet_v2",
}
"""Our recipes, and what torchvision calls them."""
TIMM = {"efficientnet-lite0": "tf_efficientnet_lite0"}

_undefined = re.compile(r"operator torchvision::(\w+) does not exist")
_operators: list[torch.library.Library] = []


def torchvision_models() -> ModuleType:
    """``torchvision.models``, beside any build of PyTorch.

    The wheels on PyPI are compiled for PyTorch with CUDA. Beside another build their operators cannot be loaded, and
    importing torchvision fails for want of them, though no classifier uses one: they are declared here.

    Raises:
        ImportError: torchvision is not installed.
    """
    while True:
        try:
            import torchvision.models

            return torchvision.models
        except RuntimeError as e:
            missing = _undefined.match(str(e))
            if missing is None:
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{missing[1]}() -> ()")
            _operators.append(library)  # what it declares goes when it does


def classifier_of_torchvision(name: str) -> nn.Module:
    """torchvision's module for a recipe of ours, without numbers, as the weights that it publishes are for it."""
    arguments: dict[str, Any] = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
    factory: Callable[..., nn.Module] = getattr(torchvision_models(), TORCHVISION[name])
    with torch.device("meta"):
        return factory(weights=None, **arguments).eval()


def classifier_of_timm(name: str) -> nn.Module:
    """timm's module for a recipe of ours, without numbers."""
    torchvision_models()  # timm imports it
    import timm

    with torch.device("meta"):
        module: nn.Module = timm.create_model(TIMM[name], pretrained=False)
    return module.eval()


def table(state: Mapping[str, torch.Tensor]) -> str:
    """A line a tensor: its name, and its shape; ``-`` is that of a single number."""
    return "".join(f"{name} {'x'.join(map(str, tensor.shape)) or '-'}\n" for name, tensor in state.items())


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    modules = {name: classifier_of_torchvision(name) for name in TORCHVISION}
    modules |= {name: classifier_of_timm(name) for name in TIMM}
    for name, module in modules.items():
        (FOLDER / f"{name}.txt").write_text(table(module.state_dict()))
        print(f"{name}: {len(module.state_dict())} tensors", file=sys.stderr)


if __name__ == "__main__":
    main()
