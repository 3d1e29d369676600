"""Writes tests/models/published: names and shapes of the tensors in published weights of EdgeKit's classifiers.

python -m tools.published_names needs torchvision and timm. The tests compare with its tables, so that they need
neither.
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
"""torchvision's names of EdgeKit's recipes."""
TIMM = {"efficientnet-lite0": "tf_efficientnet_lite0"}

_undefined = re.compile(r"operator torchvision::(\w+) does not exist")
_operators: list[torch.library.Library] = []


def torchvision_models() -> ModuleType:
    """Imports ``torchvision.models`` with any build of PyTorch.

    The wheels on PyPI are compiled for PyTorch with CUDA. With another build, their operators cannot be loaded, and
    importing torchvision fails. No classifier uses these operators, so declaring them is enough.

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
            _operators.append(library)  # a declaration ends with its library object


def classifier_of_torchvision(name: str) -> nn.Module:
    """Returns torchvision's module of a recipe, without weights, as its published weights expect it."""
    arguments: dict[str, Any] = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
    factory: Callable[..., nn.Module] = getattr(torchvision_models(), TORCHVISION[name])
    with torch.device("meta"):
        return factory(weights=None, **arguments).eval()


def classifier_of_timm(name: str) -> nn.Module:
    """Returns timm's module of a recipe, without weights."""
    torchvision_models()  # timm imports it
    import timm

    with torch.device("meta"):
        module: nn.Module = timm.create_model(TIMM[name], pretrained=False)
    return module.eval()


def table(state: Mapping[str, torch.Tensor]) -> str:
    """Returns one line per tensor: its name and its shape; ``-`` is the shape of a scalar."""
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
