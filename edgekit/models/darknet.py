"""Darknet ``.weights`` files: a header, then the float32 weights of all layers in order, without names.

The layout is that of ``load_weights_upto`` and the functions that it calls in Darknet's ``parser.c``:

- three int32 ``major, minor, revision``, and the number of training images: 64 bits since version 0.2, 32 bits before,
  and 32 bits in files of version 0.2 written on a 32-bit machine;
- convolution with batch normalization: bias, scale, running mean, running variance, then kernel;
- convolution without: bias, then kernel;
- fully connected layer (``[connected]``): bias, weights by output, then scale, running mean and running variance if
  there is a normalization; in files with a version above 1000 the weights are transposed, by input;
- locally connected layer (``[local]``): bias by channel, then kernels by position;
- a file for fine-tuning, such as ``yolov4.conv.137``, ends after a layer (``darknet partial``);
- all values are little-endian.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import nn

from edgekit.arguments import either
from edgekit.errors import ModelError
from edgekit.models.blocks import LocallyConnected

__all__ = ["is_darknet", "load_darknet", "save_darknet"]

_VERSION = struct.Struct("<iii")
_FLOAT_BYTES = 4

_TRANSPOSED = 1000
"""A major or minor version above this means that the weights of fully connected layers are transposed."""


class Layer(NamedTuple):
    """One Darknet layer with weights, including its batch normalization."""

    name: str
    part: nn.Conv2d | nn.Linear | LocallyConnected
    norm: nn.BatchNorm1d | nn.BatchNorm2d | None

    def tensors(self, *, transposed: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields name and tensor in file order; ``transposed`` is for the weights of fully connected layers."""
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
        """Number of float32 values in the file."""
        return sum(tensor.numel() for _, tensor in self.tensors())

    def _statistics(self) -> Iterator[tuple[str, torch.Tensor]]:
        if self.norm is not None:
            assert self.norm.running_mean is not None and self.norm.running_var is not None
            yield "scale", self.norm.weight.detach()
            yield "running mean", self.norm.running_mean
            yield "running variance", self.norm.running_var


def is_darknet(head: bytes) -> bool:
    """Whether the first bytes of a file are a Darknet header with a known version."""
    if len(head) < _VERSION.size:
        return False
    major, minor, revision = _VERSION.unpack_from(head)
    if not (0 <= revision < 1000 and 0 <= major < 2 * _TRANSPOSED and 0 <= minor < 2 * _TRANSPOSED):
        return False
    return _is_transposed(major, minor) or (major == 0 and minor in (1, 2))


def _is_transposed(major: int, minor: int) -> bool:
    return major > _TRANSPOSED or minor > _TRANSPOSED


def load_darknet(module: nn.Module, path: Path, *, partial: bool = False) -> tuple[str, ...]:
    """Loads a Darknet file into a module, one tensor at a time.

    Args:
        module: a module with its layers in Darknet's order.
        path: the file.
        partial: accept a file that ends after one of the layers.

    Returns:
        The names of the layers that are not in the file.

    Raises:
        ModelError: the file is not a Darknet file, or its number of values differs from the module's. After an error
            the module may be partly loaded.
        OSError: the file cannot be read.
    """
    layers = _layers(module)
    with path.open("rb") as file:
        transposed, count = _skip_header(file, path, layers)
        if count < len(layers) and not partial:
            raise _ends_early(path, layers, count)
        for layer in layers[:count]:
            for what, tensor in layer.tensors(transposed=transposed):
                _read(file, path, f"{layer.name}: {what}", tensor)
    return tuple(layer.name for layer in layers[count:])


def save_darknet(module: nn.Module, path: Path, *, minor: int = 2, seen: int = 0) -> None:
    """Writes the module's weights as a Darknet file.

    Args:
        module: a module with its layers in Darknet's order.
        path: the file to write.
        minor: minor format version, as in ``0.minor``; since 2, ``seen`` has 64 bits.
        seen: number of training images.

    Raises:
        ModelError: the module has layers that the format does not support.
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
            raise _unsupported(name, type(part).__name__)
    for layer in layers:
        if (layer.norm is None) == (layer.part.bias is None):
            raise _unsupported(layer.name, "a layer without bias and normalization")
    return layers


def _lacks_norm(layer: Layer) -> bool:
    return layer.part.bias is None and layer.norm is None


def _unsupported(name: str, got: str) -> ModelError:
    return ModelError(
        "Darknet weights: expected convolutions, fully and locally connected layers, each with a bias or a "
        f"normalization, got {got} at '{name}'",
        hint="use a .pt or .safetensors file for this model",
    )


def _skip_header(file: BinaryIO, path: Path, layers: list[Layer]) -> tuple[bool, int]:
    """Checks the header and the file size, and seeks to the first weight.

    Returns:
        Whether the weights of fully connected layers are transposed; and the number of layers in the file.
    """
    head = file.read(_VERSION.size)
    if not is_darknet(head):
        raise ModelError(f"weights {path}: expected a Darknet file of version 0.1 or 0.2, got the header {head!r}")
    major, minor, _ = _VERSION.unpack(head)
    available = file.seek(0, 2) - _VERSION.size
    ends = [_FLOAT_BYTES * floats for floats in itertools.accumulate(layer.floats() for layer in layers)]
    needed = ends[-1] if ends else 0
    transposed = _is_transposed(major, minor)
    usual = 8 if minor >= 2 and not transposed else 4
    counter = next((size for size in (8, 4) if available - size == needed), usual)
    if available - counter not in (needed, *ends):
        raise _wrong_length(path, layers, max(available - counter, 0))
    file.seek(_VERSION.size + counter)
    return transposed, ends.index(available - counter) + 1 if ends else 0


def _ends_early(path: Path, layers: list[Layer], count: int) -> ModelError:
    train = either("edgekit train MODEL --weights FILE", "edgekit.train(MODEL, weights=FILE)")
    return ModelError(
        f"weights {path}: expected {len(layers)} layers, got {count}: the file ends after '{layers[count - 1].name}'",
        hint=f"weights like these are for fine-tuning: {train}; if they should be complete, download the file again",
    )


def _wrong_length(path: Path, layers: list[Layer], got_bytes: int) -> ModelError:
    got, rest = divmod(got_bytes, _FLOAT_BYTES)
    needed = sum(layer.floats() for layer in layers)
    odd = f" and {rest} bytes" if rest else ""
    message = f"weights {path}: expected {needed} floats, got {got}{odd}"
    if got >= needed:
        return ModelError(
            f"{message}: {got - needed}{odd} remain after the last layer, '{layers[-1].name}'",
            hint="the file is for another model, or for another number of classes",
        )
    before = 0
    for number, layer in enumerate(layers, start=1):
        if before + layer.floats() > got:
            return ModelError(
                f"{message}: the file ends in '{layer.name}', layer {number} of {len(layers)}, which needs "
                f"{layer.floats()} and gets {got - before}",
                hint="the file is truncated (download it again), or is for another model or number of classes",
            )
        before += layer.floats()
    raise AssertionError("a file that is too short ends in some layer")


def _read(file: BinaryIO, path: Path, what: str, tensor: torch.Tensor) -> None:
    numbers = np.fromfile(file, dtype="<f4", count=tensor.numel())
    if numbers.size != tensor.numel():
        raise ModelError(f"weights {path}: {what}: expected {tensor.numel()} floats, got {numbers.size}")
    if not np.isfinite(numbers).all():
        raise ModelError(f"weights {path}: {what}: expected finite numbers, got NaN or infinity")
    if what.endswith("variance") and numbers.min(initial=0.0) < 0:
        raise ModelError(
            f"weights {path}: {what}: expected numbers >= 0, got {numbers.min()}",
            hint="the file is for another model",
        )
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(numbers.astype(np.float32, copy=False)).view_as(tensor))
