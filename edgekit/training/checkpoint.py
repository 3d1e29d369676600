"""Checkpoints: the full training state in one file, written atomically."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import safetensors.torch
import torch
from torch import nn

from edgekit.arguments import argument
from edgekit.errors import TrainError
from edgekit.models.weights.origin import WeightsOrigin
from edgekit.storage import atomic_file, write_atomic

__all__ = ["load_checkpoint", "save_checkpoint", "save_weights"]

FORMAT = 1
_Kinds: TypeAlias = "dict[str, type | tuple[type, ...]]"
_IDENTITY: _Kinds = {"model": str, "arguments": str, "source": str, "examples": int, "seed": int}
_STATE: _Kinds = {
    **{"module": dict, "optimizer": dict, "schedule": dict, "random": torch.Tensor},
    **{"epochs": list, "batch": int, "threads": int, "loss_sum": (int, float), "seconds": (int, float)},
}
"""What a checkpoint has at least, with its types."""


def save_checkpoint(path: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Writes a checkpoint atomically: a crash leaves the previous one.

    Args:
        path: the checkpoint file.
        identity: model, data and options; only training with the same identity can resume.
        state: tensors and built-in values.

    Raises:
        TrainError: the file cannot be written.
    """
    content = {"format": FORMAT, "identity": dict(identity), "state": dict(state)}
    # To a file that Python writes: of one that it writes itself, PyTorch does not say why it could not.
    with _errors(path), atomic_file(path) as file, file.open("wb") as stream:
        torch.save(content, stream)


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Loads the identity and the state that `save_checkpoint` wrote.

    Raises:
        TrainError: the file does not exist, or is not a checkpoint.
    """
    if not path.is_file():
        raise TrainError(
            f"checkpoint {path}: expected a checkpoint to resume from, got no such file",
            hint=f"omit {argument('resume')} to start training, or pass the original output file with "
            f"{argument('output')}; to continue a finished "
            f"training, use {argument('weights', like='FILE')}",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.load warns about pickles that it then rejects
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as e:
        raise TrainError(f"checkpoint {path}: cannot be read: {e.strerror or e}") from e
    except Exception as e:  # torch.load raises RuntimeError, EOFError, UnpicklingError, ... on other files
        raise TrainError(
            f"checkpoint {path}: expected a checkpoint written by `edgekit train`, got another or a damaged file",
            hint=f"delete {path} to start over",
        ) from e
    got = content.get("format") if isinstance(content, dict) else type(content).__name__
    if got != FORMAT:
        raise TrainError(f"checkpoint {path}: expected format {FORMAT}, got {got}", hint=f"delete {path} to start over")
    identity, state = content.get("identity"), content.get("state")
    if isinstance(state, dict):
        state.setdefault("threads", 0)  # older checkpoints do not have it
    for part, of, kinds in (("identity", identity, _IDENTITY), ("state", state, _STATE)):
        for name, kind in kinds.items():
            if not isinstance(of, dict) or not isinstance(of.get(name), kind):
                raise TrainError(
                    f"checkpoint {path}: expected a checkpoint written by `edgekit train`, got one whose {part} has no "
                    f"'{name}' of the right type",
                    hint=f"delete {path} to start over",
                )
    return identity, state


def save_weights(path: Path, module: nn.Module, origin: WeightsOrigin | None = None) -> None:
    """Writes the module's weights as ``.safetensors``, for `edgekit.models.weights.read.load_weights`.

    Args:
        path: the file.
        module: the module.
        origin: facts about the training, which are written with the weights; None for none.

    Raises:
        TrainError: the file cannot be written.
    """
    # A shared tensor is written once per name, since the format does not support sharing.
    state = {name: tensor.detach().clone().contiguous() for name, tensor in module.state_dict().items()}
    with _errors(path):
        write_atomic(path, safetensors.torch.save(state, None if origin is None else origin.metadata()))


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as e:  # torch raises RuntimeError if the disk is full
        cause = _os_error(e)
        reason = cause.strerror if cause is not None and cause.strerror else str(e).partition("\n")[0]
        hint = "free some disk space, or choose another output file with -o"
        raise TrainError(f"cannot write {path}: {reason}", hint=hint) from e


def _os_error(error: BaseException | None) -> OSError | None:
    """Returns the error itself, or the one that was being handled when it was raised."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error
