"""Loads weights into a module from Darknet ``.weights``, PyTorch ``.pt`` and ``.safetensors`` files."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import safetensors
import safetensors.torch
import torch
from torch import nn

from edgekit.errors import ModelError, nearest
from edgekit.models.darknet import is_darknet, load_darknet

__all__ = ["Renaming", "load_weights"]

_NESTED = ("state_dict", "model", "model_state_dict")
"""Keys under which training scripts store the state dict in a checkpoint."""

_OTHER_MODEL = "the file is for another model"

_FORMATS = "a Darknet .weights file, a .pt file of tensors, or a .safetensors file"


@runtime_checkable
class Renaming(Protocol):
    """A module whose published weights have different names from its state dict."""

    def own_name(self, published: str) -> str | None:
        """Returns the module's name for a published tensor, or None if the module does not use it.

        Args:
            published: a name in the file that is not in the state dict; an unknown name is returned unchanged.
        """


def load_weights(module: nn.Module, path: str | Path, *, partial: bool = False) -> tuple[str, ...]:
    """Loads weights from a file into a module; detects the format from the content, not from the name.

    Args:
        module: the module to load into, in place.
        path: Darknet's ``.weights``; a state dict saved by ``torch.save``, plain or under ``state_dict`` or
            ``model``; or ``.safetensors``.
        partial: accept a Darknet file that ends after one of the layers, such as ``yolov4.conv.137``.

    Returns:
        The names of the layers that are not in the file.

    Raises:
        ModelError: the file is missing, has another format, or does not fit the module; names the first tensor that
            does not fit, with its expected and actual shape. After an error the module may be partly loaded.
    """
    file = Path(path)
    try:
        head = _head(file)
        if is_darknet(head):
            return load_darknet(module, file, partial=partial)
        if head[8:9] == b"{":
            _assign(module, _safetensors_state(file), file)
        elif head.startswith((b"PK\x03\x04", b"\x80")):
            _assign(module, _torch_state(file), file)
        else:
            raise _unknown_format(file, head)
    except OSError as e:
        raise ModelError(f"weights {file}: cannot be read: {e.strerror or e}") from e
    return ()


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
    else:
        got, hint = f"a file that begins with {head[:12]!r}", ""
    return ModelError(f"weights {file}: expected {_FORMATS}, got {got}", hint=hint)


def _safetensors_state(file: Path) -> Mapping[str, Any]:
    try:
        return safetensors.torch.load_file(file)
    except safetensors.SafetensorError as e:
        raise ModelError(f"weights {file}: not a valid .safetensors file: {e}") from e


def _torch_state(file: Path) -> Mapping[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.load warns about pickles that it then rejects
            state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise ModelError(
            f"weights {file}: expected tensors by name, got a pickle of other objects or a damaged file",
            hint="save them with torch.save(module.state_dict(), path)",
        ) from e
    except Exception as e:  # torch.load raises RuntimeError, EOFError, KeyError, ... on other files
        first_line = str(e).partition("\n")[0]
        raise ModelError(f"weights {file}: not a file written by torch.save: {first_line}") from e
    for key in _NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(
            f"weights {file}: expected tensors by name, plain or under {' or '.join(_NESTED)}, got {_described(state)}",
            hint="save them with torch.save(module.state_dict(), path)",
        )
    return state


def _described(state: Any) -> str:
    if isinstance(state, Mapping):
        return f"a dict with {', '.join(repr(key) for key in list(state)[:5]) or 'nothing in it'}"
    return type(state).__name__


def _assign(module: nn.Module, state: Mapping[str, Any], file: Path) -> None:
    own = module.state_dict()
    state = _renamed_state(module, own, state)
    for name, tensor in own.items():
        if name not in state:
            if name.endswith("num_batches_tracked"):  # counts training steps; unused in eval mode
                continue
            raise ModelError(
                f"weights {file}: expected a tensor '{name}' {_shape(tensor)}, got none",
                hint=nearest(name, state) if own.keys() & state.keys() else _OTHER_MODEL,
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


def _renamed_state(module: nn.Module, own: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for published, value in state.items():
        # DataParallel adds the prefix 'module.' to every name.
        name: str | None = str(published).removeprefix("module.")
        if isinstance(module, Renaming) and name is not None and name not in own:
            name = module.own_name(name)
        if name is not None:
            renamed[name] = value
    return renamed


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
