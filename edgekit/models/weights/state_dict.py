"""Finds the state dict in what a training script saved, and its tensors' names in the module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn

from edgekit.errors import ModelError

__all__ = ["SAVE_HINT", "Renaming", "StateDict", "renamed_state", "state_dict_of"]

SAVE_HINT = "save them with torch.save(module.state_dict(), path)"

_PREFERRED = ("state_dict", "model", "model_state_dict")
"""Keys of the trained weights, where a checkpoint has other state dicts too, such as averaged ones."""
_DEPTH = 3
_COMPILED = "_orig_mod."
"""What `torch.compile` puts before the names of the module that it wraps, at any depth."""
_COUNTER = "n_averaged"
"""Number of averaged models, a tensor of `torch.optim.swa_utils.AveragedModel` and of no module inside of it."""


@runtime_checkable
class Renaming(Protocol):
    """A module whose published weights have different names from its state dict."""

    def own_name(self, published: str) -> str | None:
        """Returns the module's name for a published tensor, or None if the module does not use it.

        Args:
            published: a name in the file that is not in the state dict; an unknown name is returned unchanged.
        """


class StateDict(NamedTuple):
    """A state dict in a checkpoint.

    Attributes:
        tensors: the tensors by name; a module's extra state may be among them, which is no tensor.
        key: its place in the checkpoint, such as ``model``; empty if the checkpoint is the state dict.
        others: places of other state dicts in the checkpoint, such as ``ema``.
    """

    tensors: Mapping[str, Any]
    key: str = ""
    others: tuple[str, ...] = ()


def state_dict_of(checkpoint: Any, file: Path) -> StateDict:
    """Finds the state dict in the content of a file: the content itself, or a value in it.

    Of several, the one under a usual key (``state_dict``, ``model``, ``model_state_dict``) is taken.

    Raises:
        ModelError: there is no state dict, or several and none under a usual key.
    """
    found = {".".join(keys): (keys, tensors) for keys, tensors in _state_dicts(checkpoint)}
    preferred = [name for name, (keys, _) in found.items() if not keys or keys[0] in _PREFERRED]
    if not found:
        raise ModelError(
            f"weights {file}: expected tensors by name, got {_described(checkpoint)}",
            hint=SAVE_HINT,
        )
    if len(found) > 1 and len(preferred) != 1:
        listed = ", ".join(f"'{name}'" for name in list(preferred or found)[:5])
        raise ModelError(
            f"weights {file}: expected the tensors of one model, got those of several: {listed}",
            hint="save those that you want to a file of their own: torch.save(checkpoint[KEY], path)",
        )
    name = preferred[0] if preferred else next(iter(found))
    return StateDict(found[name][1], name, tuple(other for other in found if other != name))


def _state_dicts(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    if not isinstance(value, Mapping) or len(keys) > _DEPTH:
        return
    if any(isinstance(name, str) and isinstance(item, torch.Tensor) for name, item in value.items()):
        # A dictionary of numbers that were saved as tensors, such as losses, is no model's.
        if not keys or any(isinstance(item, torch.Tensor) and item.dim() for item in value.values()):
            yield keys, value
            return
    for key, item in value.items():
        if isinstance(key, str):  # an optimizer numbers its states
            yield from _state_dicts(item, (*keys, key))


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dict with {', '.join(repr(key) for key in list(value)[:5]) or 'nothing in it'}"
    return type(value).__name__


def renamed_state(module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a state dict by the module's own names.

    Names without a counterpart stay as they are. What wrappers put before names is removed: ``_orig_mod.`` of
    `torch.compile`, and before all names ``module.`` of `torch.nn.DataParallel`, ``model.`` of a Lightning module, ….
    """
    own = module.state_dict().keys()

    def own_name(name: str) -> str | None:
        name = name if name in own else name.replace(_COMPILED, "")
        return module.own_name(name) if isinstance(module, Renaming) and name not in own else name

    published = _without_wrappers({str(name): value for name, value in state.items()}, lambda n: own_name(n) in own)
    renamed = {own_name(name): value for name, value in published.items()}
    return {name: value for name, value in renamed.items() if name is not None}


def _without_wrappers(state: dict[str, Any], is_known: Callable[[str], bool]) -> dict[str, Any]:
    """Removes the word that all names begin with, until one of them is known; without success, none is removed."""
    inner = {name: value for name, value in state.items() if name != _COUNTER}
    while inner and not any(map(is_known, inner)):
        words = {name.partition(".")[0] for name in inner}
        if len(words) > 1 or not all("." in name for name in inner):
            return state
        inner = {name.partition(".")[2]: value for name, value in inner.items()}
    return inner
