"""Creates modules from a recipe or from ``package.module:factory``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from edgekit.errors import ExportError, RecipeError, UsageError, nearest
from edgekit.recipe.schema import Recipe

__all__ = ["module_from_factory", "module_from_recipe"]


def module_from_recipe(recipe: Recipe, *, seed: int = 0) -> nn.Module:
    """Creates the recipe's reference module, with random weights, in eval mode.

    Args:
        recipe: the recipe, with the factory, its arguments, and the expected number of parameters.
        seed: random seed for the weights.

    Raises:
        RecipeError: the number of parameters differs from the recipe's.
        UsageError: the factory does not exist, or the recipe is of an ONNX file.
        ExportError: the factory failed.
    """
    if not recipe.model.factory:
        raise UsageError(
            f"recipe '{recipe.name}': expected one with a module, got one of the ONNX file {recipe.model.onnx}",
            hint="train the module that the file was exported from",
        )
    module = module_from_factory(recipe.model.factory, recipe.model.arguments, seed=seed)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    if parameters != recipe.model.parameters:
        raise RecipeError(
            f"recipe {recipe.name}: model.parameters: expected {parameters}, the number of "
            f"'{recipe.model.factory}', got {recipe.model.parameters}"
        )
    return module


def module_from_factory(spec: str, arguments: Mapping[str, Any] | None = None, *, seed: int = 0) -> nn.Module:
    """Creates a module: imports ``package.module`` and calls ``factory``.

    The current folder is on the import path, as with ``python -m``.

    Args:
        spec: ``package.module:factory``; the factory is a function or class that returns an ``nn.Module``, or a module.
        arguments: keyword arguments for the factory.
        seed: PyTorch random seed for the factory.

    Returns:
        The module, in eval mode.

    Raises:
        UsageError: ``spec`` does not name a callable.
        ExportError: the import or the factory failed, or the result is not an ``nn.Module``.
    """
    factory = _attribute(spec)
    module = factory if isinstance(factory, nn.Module) else _called(spec, factory, dict(arguments or {}), seed)
    if not isinstance(module, nn.Module):
        raise ExportError(f"factory '{spec}': expected it to return a torch.nn.Module, got {type(module).__name__}")
    return module.eval()


def _attribute(spec: str) -> Any:
    name, colon, attribute = spec.partition(":")
    if not (name and colon and attribute):
        raise UsageError(f"factory: expected package.module:factory, got '{spec}'")
    module = _imported(spec, name)
    value: Any = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            public = [known for known in vars(value) if not known.startswith("_")] if hasattr(value, "__dict__") else []
            raise UsageError(f"factory '{spec}': '{name}' has no attribute '{attribute}'", hint=nearest(part, public))
        value = getattr(value, part)
    if not callable(value):
        raise UsageError(
            f"factory '{spec}': expected a function or class that returns a torch.nn.Module, got {type(value).__name__}"
        )
    return value


def _imported(spec: str, name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        # Not removed later: a user's module may import others as late as in forward().
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name is None or not f"{name}.".startswith(f"{e.name}."):
            raise ExportError(f"factory '{spec}': importing '{name}' failed: {e}") from e
        raise UsageError(
            f"factory '{spec}': no module named '{e.name}'",
            hint=f"install it, or run in the folder that contains it; the current folder is {here}",
        ) from e
    except (Exception, SystemExit) as e:  # a user's module may raise anything during import
        raise ExportError(f"factory '{spec}': importing '{name}' failed: {type(e).__name__}: {e}") from e


def _called(spec: str, factory: Any, arguments: dict[str, Any], seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return factory(**arguments)
        except Exception as e:
            given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
            raise ExportError(f"factory '{spec}' failed when called with ({given}): {type(e).__name__}: {e}") from e
