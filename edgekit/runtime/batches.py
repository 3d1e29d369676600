"""Runs several images at once: one input of all, and the outputs of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from edgekit.arguments import argument
from edgekit.data.frames import Format, rgb_frame
from edgekit.data.images import Placement, preprocess
from edgekit.engine.bundle.manifest import Manifest
from edgekit.errors import RunError, UsageError
from edgekit.limits import MAX_SIZE
from edgekit.option import given_number
from edgekit.recipe.heads import BatchedRows
from edgekit.specs import Size, SizeRange, TensorSpec, sizes_of, sizes_take, specs_at

__all__ = ["ONE", "Batch", "batch_of", "input_of_image", "largest_batch", "outputs_of_each", "stacked"]


class Batch(NamedTuple):
    """How many images run at once.

    Attributes:
        size: number of images.
        least: smallest number that the engine takes; fewer images are completed by copies of the last.
    """

    size: int
    least: int


ONE = Batch(1, 1)


def batch_of(manifest: Manifest, inputs: Sequence[TensorSpec], wanted: int | None = None) -> Batch:
    """Returns how many images to run at once.

    Args:
        manifest: the manifest of the engine's bundle.
        inputs: the engine's inputs.
        wanted: the number that the user asks for; None for 1, or for the smallest that the engine takes.

    Raises:
        UsageError: the engine does not take so many.
    """
    sizes: list[Size | str] = [sizes_of(spec, manifest.shapes)[0] for spec in inputs if spec.shape]
    least = max(map(_least, sizes), default=1)
    size = least if wanted is None else given_number("batch", wanted, 1, MAX_SIZE)
    for own in sizes:
        if not sizes_take([own], [size]):
            raise UsageError(
                f"{argument('batch', size)}: expected a batch that the engine takes, which was built for {own}",
                hint=f"build it with {argument('batch', size)}",
            )
    return Batch(size, least)


def largest_batch(manifest: Manifest, inputs: Sequence[TensorSpec], images: int) -> Batch:
    """Returns the largest batch that the engine takes for a number of images; at least what it takes."""
    sizes: list[Size | str] = [sizes_of(spec, manifest.shapes)[0] for spec in inputs if spec.shape]
    least = max(map(_least, sizes), default=1)
    most = min((size.max if isinstance(size, SizeRange) else _least(size) for size in sizes), default=1)
    return Batch(max(least, min(most, images)), least)


def _least(size: Size | str) -> int:
    if isinstance(size, SizeRange):
        return size.min
    return size if isinstance(size, int) else 1


def input_of_image(
    image: np.ndarray, format: Format, manifest: Manifest, inputs: Sequence[TensorSpec]
) -> tuple[np.ndarray, Placement]:
    """Preprocesses one image of a batch.

    Args:
        image: uint8 array in a pixel format.
        format: the pixel format.
        manifest: the manifest of the engine's bundle.
        inputs: the engine's inputs.

    Returns:
        The input for a batch of 1, in the engine's type, and the placement of the image in it.

    Raises:
        RunError: the engine does not take images.
    """
    how = manifest.preprocess
    if how is None or len(inputs) != 1:
        raise RunError(
            f"'{manifest.name}': expected an engine that takes images, got one for task '{manifest.task}' with the "
            f"inputs {', '.join(spec.name for spec in inputs)}"
        )
    spec = specs_at(inputs, manifest.shapes)[0]
    return preprocess(rgb_frame(image, format), how, spec.shape, spec.dtype)


def stacked(arrays: Sequence[np.ndarray], batch: Batch) -> np.ndarray:
    """Joins inputs of one image each to the input of a run; repeats the last if the engine takes no fewer."""
    if len(arrays) == 1 and batch.least <= 1:
        return arrays[0]
    return np.concatenate([*arrays, *[arrays[-1]] * (batch.least - len(arrays))])


def outputs_of_each(outputs: Mapping[str, np.ndarray], count: int, manifest: Manifest) -> list[dict[str, np.ndarray]]:
    """Splits the outputs of a run into those of each image.

    Args:
        outputs: the outputs by name.
        count: number of images; entries after them are of images that were repeated.
        manifest: the manifest of the engine's bundle.

    Raises:
        RunError: an output does not have one entry for each image.
    """
    if manifest.postprocess is not None and isinstance(manifest.postprocess.head, BatchedRows):
        return [_rows_of_image(outputs, manifest.postprocess.head, i) for i in range(count)]
    sizes = {array.shape[0] if array.ndim else 0 for array in outputs.values()}
    if len(sizes) == 1 and min(sizes) >= count:
        return [{name: array[i : i + 1] for name, array in outputs.items()} for i in range(count)]
    if count == 1:
        return [dict(outputs)]  # such as a list of all boxes, which are of the only image
    got = "; ".join(f"{name} {array.shape}" for name, array in outputs.items())
    raise RunError(
        f"'{manifest.name}': expected outputs with an entry for each of {count} images, got {got}",
        hint=f"run it with {argument('batch', 1)}",
    )


def _rows_of_image(outputs: Mapping[str, np.ndarray], head: BatchedRows, index: int) -> dict[str, np.ndarray]:
    """Returns the detections of one image, as the model returns them for that image alone."""
    rows = outputs[head.output]
    if head.columns == "paddle":  # which takes one image
        return dict(outputs)
    own = rows[rows[:, 0] == index].copy()
    own[:, 0] = 0
    return {**outputs, head.output: own}
