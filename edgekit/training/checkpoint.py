"""Checkpoints: all that a training needs to go on as if it had never stopped, in a file that is whole or not there."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from edgekit.errors import TrainError
from edgekit.storage import atomic_file, write_atomic

__all__ = ["load_checkpoint", "save_checkpoint", "save_weights"]

FORMAT = 1


def save_checkpoint(path: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Writes a checkpoint beside its place and renames it into it: a crash leaves the one before.

    Args:
        path: the file.
        identity: what the training is of; another one cannot go on from here.
        state: tensors and plain values.

    Raises:
        TrainError: the file cannot be written.
    """
    content = {"format": FORMAT, "identity": dict(identity), "state": dict(state)}
    with _errors(path), atomic_file(path) as file:
        torch.save(content, file)


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The identity and the state that `save_checkpoint` was given.

    Raises:
        TrainError: there is no such file, or it is something else.
    """
    if not path.is_file():
        raise TrainError(
            f"checkpoint {path}: expected a training to resume, got no such file",
            hint="leave out --resume to begin, or name with -o the file that was to be written; what has ended is "
            "trained further with --weights FILE",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of pickles that it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as e:
        raise TrainError(f"checkpoint {path}: cannot be read: {e.strerror or e}") from e
    except Exception as e:  # torch.load raises RuntimeError, EOFError, UnpicklingError, ... on what is not its own
        raise TrainError(
            f"checkpoint {path}: expected one that `edgekit train` has written, got another file, or a damaged one",
            hint=f"delete {path} to begin anew",
        ) from e
    got = content.get("format") if isinstance(content, dict) else type(content).__name__
    if got != FORMAT:
        raise TrainError(f"checkpoint {path}: expected format {FORMAT}, got {got}", hint=f"delete {path} to begin anew")
    return content["identity"], content["state"]


def save_weights(path: Path, module: nn.Module) -> None:
    """Writes the module's weights as ``.safetensors``, as `edgekit.models.weights.read.load_weights` reads them.

    Raises:
        TrainError: the file cannot be written.
    """
    # A tensor that two names share is written for each: the format has no such thing as sharing.
    state = {name: tensor.detach().clone().contiguous() for name, tensor in module.state_dict().items()}
    with _errors(path):
        write_atomic(path, safetensors.torch.save(state))


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as e:  # torch makes a RuntimeError of a full disk
        reason = e.strerror if isinstance(e, OSError) and e.strerror else str(e).partition("\n")[0]
        raise TrainError(f"cannot write {path}: {reason}", hint="make room, or choose another place with -o") from e
