"""One item of a Python caller's calibration data, as samples that fit a model: arrays, pairs, dictionaries, images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from edgekit.data.images import read_image
from edgekit.errors import CalibrationError, DataError
from edgekit.option.objects import is_array
from edgekit.recipe.schema import Preprocess
from edgekit.specs import ShapeRange, SizeRange, TensorSpec, in_float32, sizes_of, sizes_take, specs_text

__all__ = ["ModelInputs", "Sample", "samples_of_item"]

Sample: TypeAlias = "np.ndarray | dict[str, np.ndarray]"
"""An image, uint8 RGB of shape ``(H, W, 3)``; or the model's inputs by name."""

_CHANNELS = (1, 3)


class ModelInputs(NamedTuple):
    """What a sample has to fit.

    Attributes:
        specs: the model's inputs.
        how: image preprocessing; None if the model takes no images.
        shapes: shape ranges of the dynamic inputs.
    """

    specs: tuple[TensorSpec, ...]
    how: Preprocess | None
    shapes: dict[str, ShapeRange]

    @property
    def takes_images(self) -> bool:
        """Whether uint8 arrays are images, rather than inputs of the model."""
        return self.how is not None and len(self.specs) == 1

    @property
    def image_ranks(self) -> tuple[int, ...]:
        """Numbers of axes of uint8 arrays that are images: a batch of bytes is an input, if the model takes bytes."""
        return (2, 3) if self.specs[0].dtype == "uint8" else (2, 3, 4)

    def __str__(self) -> str:
        return specs_text(self.specs, self.shapes)


def samples_of_item(item: Any, model: ModelInputs, where: str, left_out: set[str]) -> Sequence[Sample]:
    """Converts an item to samples: one, or several if it holds a larger batch than the model's.

    Args:
        item: an array, an image, the path of an image, a dictionary of arrays by input name, a tuple of the inputs, or
            a tuple that begins with the input or inputs, as a pair with the target does.
        model: the model's inputs.
        where: beginning of messages.
        left_out: receives the keys of dictionaries that are no inputs.

    Raises:
        CalibrationError: the item does not fit; or an image cannot be read.
    """
    item = _input_of(item, model)
    if isinstance(item, (str, os.PathLike, Image.Image)):
        return [_image(item, model, where)]
    if is_array(item) and model.takes_images:
        array = _array(item, where)
        if array.dtype == np.uint8 and array.ndim in model.image_ranks:
            return _images(array, where)
    return _batches(_named(item, model, where, left_out), model, where)


def _input_of(item: Any, model: ModelInputs) -> Any:
    """Returns the input or inputs of an item that may also have a target."""
    if not isinstance(item, (tuple, list)) or not item:
        return item
    nested = isinstance(item[0], (tuple, list, Mapping))
    return item[0] if nested or len(model.specs) == 1 else item


def _image(item: Any, model: ModelInputs, where: str) -> np.ndarray:
    if not model.takes_images:
        raise CalibrationError(f"{where}: expected arrays for {model}, got an image")
    try:
        return read_image(item if isinstance(item, Image.Image) else Path(item))
    except DataError as e:
        raise CalibrationError(f"{where}: {e.message}", hint=e.hint) from e


def _images(array: np.ndarray, where: str) -> list[np.ndarray]:
    """Splits uint8 images with channels first or last, or without any, to RGB of shape ``(H, W, 3)``."""
    got = array.shape
    if array.ndim == 2:
        array = array[..., None]
    if array.shape[-1] not in _CHANNELS and array.shape[-3] in _CHANNELS:
        array = np.moveaxis(array, -3, -1)
    if array.shape[-1] not in _CHANNELS:
        raise CalibrationError(
            f"{where}: expected uint8 images of shape (H, W, 3), (3, H, W), (H, W), or a batch of them, got {got}"
        )
    array = np.broadcast_to(array, (*array.shape[:-1], 3))
    return [np.ascontiguousarray(image) for image in (array if array.ndim == 4 else array[None])]


def _named(item: Any, model: ModelInputs, where: str, left_out: set[str]) -> dict[str, np.ndarray]:
    """Returns the arrays of an item by the names of the model's inputs, with their element types."""
    names = [spec.name for spec in model.specs]
    if isinstance(item, Mapping):
        if missing := [name for name in names if name not in item]:
            raise CalibrationError(
                f"{where}: expected arrays {', '.join(names)}, got {', '.join(map(str, item)) or 'none'}, without "
                f"{', '.join(missing)}",
                hint=f"the model's inputs are {model}",
            )
        left_out.update(str(key) for key in item if key not in names)
        given = [item[name] for name in names]
    elif isinstance(item, (tuple, list)):
        if len(item) < len(names):
            raise CalibrationError(f"{where}: expected arrays for {model}, got {len(item)}")
        given = list(item[: len(names)])
    elif len(names) == 1:
        given = [item]
    else:
        raise CalibrationError(
            f"{where}: expected arrays for {model}, got one {type(item).__name__}",
            hint="give dictionaries of arrays by input name, or tuples in the order of the inputs",
        )
    arrays = [_array(value, where) for value in given]
    return {spec.name: _typed(array, spec.dtype) for spec, array in zip(model.specs, arrays, strict=True)}


def _array(value: Any, where: str) -> np.ndarray:
    if not is_array(value):
        raise CalibrationError(f"{where}: expected an array or a tensor, got {type(value).__name__}")
    if hasattr(value, "detach"):  # a tensor of PyTorch, which may be on a GPU, and of a type that numpy has not
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _typed(array: np.ndarray, dtype: str) -> np.ndarray:
    """Converts between floats, and between integers if every value stays the same; returns others unchanged."""
    array = in_float32(array, dtype)
    if array.dtype.name == dtype or {array.dtype.kind, np.dtype(dtype).kind} - set("iu"):
        return array
    converted = array.astype(dtype)
    return converted if np.array_equal(converted, array) else array


def _batches(arrays: dict[str, np.ndarray], model: ModelInputs, where: str) -> list[dict[str, np.ndarray]]:
    """Splits arrays into batches of the model; adds the batch dimension if all lack it."""
    sizes = {spec.name: sizes_of(spec, model.shapes) for spec in model.specs}
    fits = all(arrays[spec.name].dtype.name == spec.dtype for spec in model.specs)
    if fits and all(sizes_take(sizes[name], array.shape) for name, array in arrays.items()):
        return [arrays]
    if fits and all(sizes_take(sizes[name][1:], array.shape) for name, array in arrays.items()):
        arrays = {name: array[None] if sizes[name] else array for name, array in arrays.items()}
    batched = [name for name in arrays if sizes[name]]
    lengths = {arrays[name].shape[:1] for name in batched}
    rest = all(sizes_take(sizes[name][1:], arrays[name].shape[1:]) for name in batched)
    same_rank = all(arrays[name].ndim == len(sizes[name]) for name in arrays)
    steps = {_batch_of(sizes[name][0]) for name in batched}
    if not (fits and rest and same_rank and len(lengths) == len(steps) == 1):
        got = "; ".join(f"{name}: {array.dtype} {array.shape}" for name, array in arrays.items())
        raise CalibrationError(
            f"{where}: expected {model}, or a batch of another size, got {got}",
            hint="uint8 arrays are images, and others are inputs of the model as they are"
            if model.takes_images
            else "",
        )
    (length,), step = lengths.pop(), steps.pop()
    return list(_cut(arrays, batched, length, step))


def _batch_of(size: int | str | SizeRange) -> int:
    """Returns the smallest batch that the model accepts."""
    return size.min if isinstance(size, SizeRange) else size if isinstance(size, int) else 1


def _cut(
    arrays: dict[str, np.ndarray], batched: Sequence[str], length: int, step: int
) -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, length, step):
        # Repeating rows to fill the last batch leaves the ranges unchanged.
        rows = [start + place % min(step, length - start) for place in range(step)]
        whole = rows[-1] == start + step - 1
        yield {
            **arrays,
            **{name: arrays[name][start : start + step] if whole else arrays[name][rows] for name in batched},
        }
