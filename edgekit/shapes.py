"""Which sizes a model's inputs are built with: those that the user names, put into those that the model leaves open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec

from edgekit.errors import UsageError, nearest
from edgekit.order import Order
from edgekit.specs import ShapeRange, TensorSpec

__all__ = ["BATCH", "Shape", "batched", "input_shapes", "picture_shape", "ranges_of_batch"]

Shape: TypeAlias = "tuple[int, ...]"
OpenShape: TypeAlias = "Sequence[int | str]"

BATCH = "batch"
"""What a first dimension is called that is chosen at run time."""

# What the example in a message says; pictures are seldom smaller than what most classifiers take.
EXAMPLE_SIDE = 224
EXAMPLE_LENGTH = 128


def input_shapes(specs: Sequence[TensorSpec], order: Order) -> dict[str, tuple[int | str, ...]]:
    """A number for each dimension of each input of an ONNX file.

    A dimension that is named at several inputs needs to be said at one of them. The first dimension, the batch, is 1
    where nothing is said of it, and stays open where it is to be chosen at run time.

    Raises:
        UsageError: a shape is for an input that is not there or does not fit it; or a dimension stays open.
    """
    given = _given(specs, order)
    sizes: dict[str, int] = {}
    for spec in specs:
        for own, size in zip(spec.shape, given.get(spec.name, ()), strict=False):
            if isinstance(own, str):
                sizes.setdefault(own, size)
    closed = {spec.name: _closed(spec, given.get(spec.name) or _filled(spec, sizes)) for spec in specs}
    return {spec.name: _with_batch(spec, closed[spec.name], order) for spec in specs}


def _with_batch(spec: TensorSpec, shape: Shape, order: Order) -> tuple[int | str, ...]:
    if order.batch is None:
        return shape
    own, (least, _, greatest) = spec.shape[0] if spec.shape else None, order.batch
    if isinstance(own, str):
        return (own if least != greatest else least, *shape[1:])
    if {least, greatest} == {own}:
        return shape
    raise UsageError(
        f"--batch: expected an input whose batch is open, got {spec}",
        hint="the batch was fixed when the model was exported; export it with a dynamic one (dynamic_axes)",
    )


def batched(specs: Sequence[TensorSpec], order: Order) -> tuple[TensorSpec, ...]:
    """The inputs with the batch that was asked for: a number, or a dimension that is chosen at run time."""
    if order.batch is None:
        return tuple(specs)
    least, _, greatest = order.batch
    first = least if least == greatest else BATCH
    return tuple(msgspec.structs.replace(spec, shape=(first, *spec.shape[1:])) for spec in specs)


def ranges_of_batch(specs: Sequence[TensorSpec], order: Order) -> dict[str, ShapeRange]:
    """The least, usual and greatest shape of each input whose batch is chosen at run time.

    Raises:
        UsageError: another dimension is open.
    """
    ranges = {}
    for spec in specs:
        if order.batch is None or not any(isinstance(size, str) for size in spec.shape):
            continue
        if any(isinstance(size, str) for size in spec.shape[1:]):
            raise UsageError(f"input {spec}: expected a size for each dimension but the first")
        ranges[spec.name] = ShapeRange(*((size, *spec.shape[1:]) for size in order.batch))  # type: ignore[arg-type]
    return ranges


def picture_shape(own: OpenShape, wanted: Shape | None) -> Shape:
    """The picture's shape with ``wanted`` put in its place: height and width, or everything; an open batch is 1.

    Raises:
        UsageError: ``wanted`` is neither, or there is no picture.
    """
    shape = [1 if axis == 0 and isinstance(size, str) else size for axis, size in enumerate(own)]
    if wanted is not None and len(wanted) == len(own):
        shape = list(wanted)
    elif wanted is not None:
        if len(own) != 4 or len(wanted) != 2:
            raise UsageError(
                f"--shape: expected HxW of a picture, or all {len(own)} sizes of ({', '.join(map(str, own))}), "
                f"got {'x'.join(map(str, wanted))}"
            )
        first = 1 if own[3] in (1, 3) and own[1] not in (1, 3) else 2
        shape[first : first + 2] = wanted
    return tuple(shape)  # type: ignore[arg-type]  # what is still open is found by whoever asked


def _given(specs: Sequence[TensorSpec], order: Order) -> dict[str, Shape]:
    """What the user says, by name."""
    given = dict(order.inputs)
    if not specs and (given or order.shape):
        raise UsageError("a shape was given, but the model has no inputs")
    if "" in given:
        given[specs[0].name] = given.pop("")
    if order.shape is not None:
        given[specs[0].name] = picture_shape(specs[0].shape, order.shape)
    known = [spec.name for spec in specs]
    for name in given:
        if name not in known:
            raise UsageError(f"--input: the model has no input '{name}'", hint=nearest(name, known))
    for spec in specs:
        if spec.name in given:
            _require_fitting(spec, given[spec.name])
    return given


def _require_fitting(spec: TensorSpec, shape: Shape) -> None:
    fits = len(shape) == len(spec.shape) and all(
        isinstance(own, str) or own == size for own, size in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise UsageError(
            f"--input or --shape: expected a shape that fits {spec}, got {'x'.join(map(str, shape))}",
            hint="the numbers in the model's shape were fixed when it was exported; only names can be given a size",
        )


def _filled(spec: TensorSpec, sizes: Mapping[str, int]) -> OpenShape:
    """The input's own shape with the sizes that are known, and 1 for a batch of which nothing is known."""
    known = [sizes.get(size, size) if isinstance(size, str) else size for size in spec.shape]
    return [1 if axis == 0 and isinstance(size, str) else size for axis, size in enumerate(known)]


def _closed(spec: TensorSpec, shape: OpenShape) -> Shape:
    unknown = [size for size in shape if isinstance(size, str)]
    if not unknown:
        return tuple(shape)  # type: ignore[arg-type]
    side = EXAMPLE_SIDE if len(shape) == 4 else EXAMPLE_LENGTH
    example = "x".join(str(size if isinstance(size, int) else side) for size in shape)
    raise UsageError(
        f"input {spec}: expected a size for each dimension, got none for {' and '.join(unknown)}",
        hint=f"say which: --input {spec.name}:{example}",
    )
