"""Loads weights into a module from Darknet ``.weights``, PyTorch ``.pt`` and ``.safetensors`` files."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import nn

from edgekit.errors import ModelError, nearest
from edgekit.models.darknet import is_darknet, load_darknet
from edgekit.models.weights.state_dict import SAVE_HINT, StateDict, renamed_state, state_dict_of
from edgekit.text import some_of

__all__ = ["LoadedWeights", "load_weights"]

_OTHER_MODEL = "the file is for another model"

_FORMATS = "a Darknet .weights file, a .pt file of tensors, or a .safetensors file"


class LoadedWeights(NamedTuple):
    """What `load_weights` found in a file.

    Attributes:
        missing: names of the layers that are not in the file.
        others: keys of other state dicts in the file, such as averaged weights, which were not read.
        key: the key of the one that was read; empty if the file has nothing else.
    """

    missing: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    key: str = ""

    @property
    def note(self) -> str:
        """Says which of the weights in the file were read; empty if there were no others."""
        if not self.others:
            return ""
        others = some_of([f"'{name}'" for name in self.others], 3)
        return (
            f"the weights are those of '{self.key}' in the file, which also has {others}; to use these, "
            "save them to a file of their own: torch.save(checkpoint[KEY], path)"
        )


def load_weights(module: nn.Module, path: str | Path, *, partial: bool = False) -> LoadedWeights:
    """Loads weights from a file into a module; detects the format from the content, not from the name.

    Args:
        module: the module to load into, in place.
        path: Darknet's ``.weights``; a state dict saved by ``torch.save``, plain or inside of a checkpoint; or
            ``.safetensors``. See `state_dict_of` and `renamed_state` for keys and names that are found.
        partial: accept a Darknet file that ends after one of the layers, such as ``yolov4.conv.137``.

    Raises:
        ModelError: the file is missing, has another format, or does not fit the module; names the first tensor that
            does not fit, with its expected and actual shape. After an error the module may be partly loaded.
    """
    file = Path(path)
    try:
        head = _head(file)
        if is_darknet(head):
            return LoadedWeights(load_darknet(module, file, partial=partial))
        if head[8:9] == b"{":
            _assign(module, _safetensors_state(file), file)
        elif head.startswith((b"PK\x03\x04", b"\x80")):
            found = _torch_state(file)
            _assign(module, found.tensors, file)
            return LoadedWeights((), found.others, found.key)
        else:
            raise _unknown_format(file, head)
    except OSError as e:
        raise ModelError(f"weights {file}: cannot be read: {e.strerror or e}") from e
    return LoadedWeights()


def _head(file: Path) -> bytes:
    if not file.exists():
        raise ModelError(f"weights {file}: no such file")
    if not file.is_file():
        raise ModelError(f"weights {file}: expected {_FORMATS}, got a folder or device")
    with file.open("rb") as stream:
        head = stream.read(512)
    if not head:
        raise ModelError(f"weights {file}: expected {_FORMATS}, got an empty file")
    return head


def _unknown_format(file: Path, head: bytes) -> ModelError:
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        got, hint = "an HTML page", "the server sent a web page instead of the file: download the file again"
    elif head.startswith(b"version https://git-lfs"):
        got, hint = "a Git LFS pointer", "download the file itself: git lfs pull"
    elif file.name.endswith(".index.json"):
        got, hint = "the index of weights in several files", f"join them to one file; {SAVE_HINT}"
    else:
        got, hint = f"a file that begins with {head[:12]!r}", ""
    return ModelError(f"weights {file}: expected {_FORMATS}, got {got}", hint=hint)


def _safetensors_state(file: Path) -> Mapping[str, Any]:
    try:
        return safetensors.torch.load_file(file)
    except safetensors.SafetensorError as e:
        raise ModelError(f"weights {file}: not a valid .safetensors file: {e}") from e


def _torch_state(file: Path) -> StateDict:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.load warns about pickles that it then rejects
            state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise ModelError(
            f"weights {file}: expected tensors by name, got a pickle of other objects or a damaged file",
            hint=SAVE_HINT,
        ) from e
    except Exception as e:  # torch.load raises RuntimeError, EOFError, KeyError, ... on other files
        if "TorchScript" in str(e):
            raise ModelError(
                f"weights {file}: expected tensors by name, got a TorchScript file",
                hint=f"save its tensors: torch.save(torch.jit.load({str(file)!r}).state_dict(), path)",
            ) from e
        first_line = str(e).partition("\n")[0]
        raise ModelError(f"weights {file}: not a file written by torch.save: {first_line}") from e
    return state_dict_of(state, file)


def _assign(module: nn.Module, state: Mapping[str, Any], file: Path) -> None:
    own = module.state_dict()
    state = renamed_state(module, state)
    for name, tensor in own.items():
        if name not in state:
            if name.endswith("num_batches_tracked"):  # counts training steps; unused in eval mode
                continue
            raise ModelError(
                f"weights {file}: expected a tensor '{name}' {_shape(tensor)}, got none",
                hint=nearest(name, state) if own.keys() & state.keys() else _hint_without_names(name, state),
            )
        _check_tensor(file, name, tensor, state[name])
    if extra := [name for name in state if name not in own]:
        raise ModelError(
            f"weights {file}: expected {len(own)} tensors, got {len(extra)} extra, the first '{extra[0]}'",
            hint=_OTHER_MODEL,
        )
    with torch.no_grad():
        for name, tensor in own.items():
            if name in state:
                tensor.copy_(state[name])


def _hint_without_names(name: str, state: Mapping[str, Any]) -> str:
    """Says what to do with a file that has none of the names of the module."""
    prefix = next((other.removesuffix(name) for other in state if other.endswith(f".{name}")), "")
    if not prefix:
        return _OTHER_MODEL
    return f"save only the tensors whose names begin with '{prefix}', without that beginning, to a file of their own"


def _check_tensor(file: Path, name: str, expected: torch.Tensor, got: Any) -> None:
    if not isinstance(got, torch.Tensor):
        raise ModelError(f"weights {file}: '{name}': expected a tensor, got {type(got).__name__}")
    if got.shape != expected.shape:
        raise ModelError(
            f"weights {file}: '{name}': expected {_shape(expected)}, got {_shape(got)}",
            hint="the file is for another model, or for another number of classes",
        )
    if got.is_floating_point() != expected.is_floating_point():
        raise ModelError(f"weights {file}: '{name}': expected {expected.dtype}, got {got.dtype}")
    if got.is_floating_point() and not torch.isfinite(got).all():
        raise ModelError(f"weights {file}: '{name}': expected finite numbers, got NaN or infinity")


def _shape(tensor: torch.Tensor) -> str:
    return str(tuple(tensor.shape))
