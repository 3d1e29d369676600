"""Darknet's ``.weights`` files: a header, then the float32 numbers of one layer after the other, with no names.

The layout is that of ``load_weights_upto`` and the functions that it calls in Darknet's ``parser.c``:

- three int32 ``major, minor, revision``, and how many images were seen in training: 64 bits from version 0.2 on,
  32 bits before it, and 32 bits in files of version 0.2 that a 32-bit machine has written;
- for a convolution with batch normalization: its bias, scale, running mean, running variance, then the kernel;
- for one without: its bias, then the kernel;
- for a full layer (``[connected]``): its bias, its weights, output by output, and only then scale, running mean and
  running variance, if there is a normalization; in files whose version is above 1000 the weights stand input by input;
- for a locally connected one (``[local]``): its bias, channel by channel, then the kernels, place by place;
- all little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import nn

from edgekit.errors import ModelError
from edgekit.models.blocks import LocallyConnected

__all__ = ["is_darknet", "load_darknet", "save_darknet"]

_VERSION = struct.Struct("<iii")
_FLOAT_BYTES = 4

_TRANSPOSED = 1000
"""A major or minor version above this says that full layers stand input by input."""


class Layer(NamedTuple):
    """One layer with weights, as Darknet counts them: with the normalization that follows it."""

    name: str
    part: nn.Conv2d | nn.Linear | LocallyConnected
    norm: nn.BatchNorm1d | nn.BatchNorm2d | None

    def tensors(self, *, transposed: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and tensor, in the order of the file; a full layer's weights, if ``transposed``, input by input."""
        bias = self.part.bias if self.norm is None else self.norm.bias
        assert bias is not None
        yield "bias", bias.detach()
        if isinstance(self.part, nn.Linear):
            yield "weights", self.part.weight.detach().t() if transposed else self.part.weight.detach()
            yield from self._statistics()
        else:
            yield from self._statistics()
            yield "kernel", self.part.weight.detach()

    def floats(self) -> int:
        """How many numbers the file holds for it."""
        return sum(tensor.numel() for _, tensor in self.tensors())

    def _statistics(self) -> Iterator[tuple[str, torch.Tensor]]:
        if self.norm is not None:
            assert self.norm.running_mean is not None and self.norm.running_var is not None
            yield "scale", self.norm.weight.detach()
            yield "running mean", self.norm.running_mean
            yield "running variance", self.norm.running_var


def is_darknet(head: bytes) -> bool:
    """Whether a file that begins so can be a Darknet one: its version is one that Darknet has had."""
    if len(head) < _VERSION.size:
        return False
    major, minor, revision = _VERSION.unpack_from(head)
    if not (0 <= revision < 1000 and 0 <= major < 2 * _TRANSPOSED and 0 <= minor < 2 * _TRANSPOSED):
        return False
    return _is_transposed(major, minor) or (major == 0 and minor in (1, 2))


def _is_transposed(major: int, minor: int) -> bool:
    return major > _TRANSPOSED or minor > _TRANSPOSED


def load_darknet(module: nn.Module, path: Path) -> None:
    """Fills the module from a Darknet file, layer by layer; holds one tensor at a time.

    Args:
        module: its layers are in the order of Darknet's.
        path: the file.

    Raises:
        ModelError: the file is not Darknet's, or has not exactly as many numbers as the module. After an error
            the module may be partly filled.
        OSError: the file cannot be read.
    """
    layers = _layers(module)
    with path.open("rb") as file:
        transposed = _skip_header(file, path, layers)
        for layer in layers:
            for what, tensor in layer.tensors(transposed=transposed):
                _read(file, path, f"{layer.name}: {what}", tensor)


def save_darknet(module: nn.Module, path: Path, *, minor: int = 2, seen: int = 0) -> None:
    """Writes the module's weights as a Darknet file.

    Args:
        module: its layers are in the order of Darknet's.
        path: the file to write.
        minor: the format's version is ``0.minor``; from 2 on ``seen`` has 64 bits.
        seen: how many images the model has seen in training.

    Raises:
        ModelError: the module has layers that the format has no place for.
    """
    layers = _layers(module)
    with path.open("wb") as file:
        file.write(_VERSION.pack(0, minor, 0))
        file.write(struct.pack("<q" if minor >= 2 else "<i", seen))
        for layer in layers:
            for _, tensor in layer.tensors():
                file.write(tensor.detach().cpu().numpy().astype("<f4").tobytes())


def _layers(module: nn.Module) -> list[Layer]:
    layers: list[Layer] = []
    for name, part in module.named_modules():
        if isinstance(part, (nn.Conv2d, nn.Linear, LocallyConnected)):
            layers.append(Layer(name, part, None))
        elif isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)) and layers and _lacks_norm(layers[-1]):
            layers[-1] = layers[-1]._replace(norm=part)
        elif next(part.parameters(recurse=False), None) is not None:
            raise _no_place(name, type(part).__name__)
    for layer in layers:
        if (layer.norm is None) == (layer.part.bias is None):
            raise _no_place(layer.name, "a layer with neither bias nor normalization")
    return layers


def _lacks_norm(layer: Layer) -> bool:
    return layer.part.bias is None and layer.norm is None


def _no_place(name: str, got: str) -> ModelError:
    return ModelError(
        "Darknet weights: expected convolutions, full and locally connected layers, each with a bias or a "
        f"normalization, got {got} at '{name}'",
        hint="give this model its weights as .pt or .safetensors",
    )


def _skip_header(file: BinaryIO, path: Path, layers: list[Layer]) -> bool:
    """Goes to the first number, once the file is known to hold exactly as many as the layers need.

    Returns:
        Whether full layers stand input by input.
    """
    head = file.read(_VERSION.size)
    if not is_darknet(head):
        raise ModelError(f"weights {path}: expected a Darknet file of version 0.1 or 0.2, got the header {head!r}")
    major, minor, _ = _VERSION.unpack(head)
    available = file.seek(0, 2) - _VERSION.size
    needed = sum(layer.floats() for layer in layers) * _FLOAT_BYTES
    transposed = _is_transposed(major, minor)
    usual = 8 if minor >= 2 and not transposed else 4
    counter = next((size for size in (8, 4) if available - size == needed), usual)
    if available - counter != needed:
        raise _wrong_length(path, layers, max(available - counter, 0))
    file.seek(_VERSION.size + counter)
    return transposed


def _wrong_length(path: Path, layers: list[Layer], got_bytes: int) -> ModelError:
    got, rest = divmod(got_bytes, _FLOAT_BYTES)
    needed = sum(layer.floats() for layer in layers)
    odd = f" and {rest} bytes" if rest else ""
    message = f"weights {path}: expected {needed} floats, got {got}{odd}"
    if got >= needed:
        return ModelError(
            f"{message}: {got - needed}{odd} are left over after the last layer, '{layers[-1].name}'",
            hint="these are the weights of another model, or of another number of classes",
        )
    before = 0
    for number, layer in enumerate(layers, start=1):
        if before + layer.floats() > got:
            return ModelError(
                f"{message}: they run out in '{layer.name}', layer {number} of {len(layers)}, which needs "
                f"{layer.floats()} and finds {got - before}",
                hint="the file is cut short (fetch it again), or belongs to another model or number of classes",
            )
        before += layer.floats()
    raise AssertionError("a file that is too short runs out in some layer")


def _read(file: BinaryIO, path: Path, what: str, tensor: torch.Tensor) -> None:
    numbers = np.fromfile(file, dtype="<f4", count=tensor.numel())
    if numbers.size != tensor.numel():
        raise ModelError(f"weights {path}: {what}: expected {tensor.numel()} floats, got {numbers.size}")
    if not np.isfinite(numbers).all():
        raise ModelError(f"weights {path}: {what}: expected finite numbers, got NaN or infinity")
    if what.endswith("variance") and numbers.min(initial=0.0) < 0:
        raise ModelError(
            f"weights {path}: {what}: expected numbers >= 0, got {numbers.min()}",
            hint="these are the weights of another model",
        )
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(numbers.astype(np.float32, copy=False)).view_as(tensor))
