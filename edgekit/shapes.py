"""Which sizes a model's inputs are built with: those that the user names, put into those that the model leaves open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from edgekit.errors import UsageError, nearest
from edgekit.specs import Shape, ShapeRange, Size, SizeRange, TensorSpec

__all__ = [
    "BATCH",
    "input_shapes",
    "open_shape",
    "picture_shape",
    "ranges_of_sizes",
    "ranges_of_specs",
    "with_batch",
]

OpenShape: TypeAlias = "Sequence[Size | str]"

BATCH = "batch"
"""What a first dimension is called that is chosen at run time, where the model has no name for it."""

# What the example in a message says; pictures are seldom smaller than what most classifiers take.
EXAMPLE_SIDE = 224
EXAMPLE_LENGTH = 128
EXAMPLE_SIDES = SizeRange(160, EXAMPLE_SIDE, 320)
EXAMPLE_LENGTHS = SizeRange(16, EXAMPLE_LENGTH, 512)


def input_shapes(
    specs: Sequence[TensorSpec],
    given: Mapping[str, Shape],
    *,
    image_shape: Shape | None = None,
    batch: Size | None = None,
) -> dict[str, Shape]:
    """A number, or the range of what is chosen at run time, for each dimension of each input of an ONNX file.

    A dimension that several inputs share needs to be given at one of them. The first dimension, the batch, is 1 unless
    it is given.

    Args:
        specs: the model's inputs.
        given: shapes by input name; the name ``""`` is the first input's.
        image_shape: of the first input: ``(H, W)`` or all its sizes.
        batch: of all inputs.

    Raises:
        UsageError: a shape is for an input that is not there or does not fit it; a dimension stays open, or is said
            to be of two sizes.
    """
    given = _given(specs, given, image_shape)
    sizes: dict[str, Size] = {}
    for spec in specs:
        for own, size in zip(spec.shape, given.get(spec.name, ()), strict=False):
            if isinstance(own, str) and sizes.setdefault(own, size) != size:
                raise UsageError(
                    f"--input or --shape: expected one size of the dimension '{own}' at all inputs, got {sizes[own]} "
                    f"and {size}, the latter at {spec}",
                    hint="say it at one of the inputs, or the same at all",
                )
    if batch is not None:
        _take_batch(specs, batch, sizes)
    for spec in specs:
        if spec.shape and isinstance(spec.shape[0], str):
            sizes.setdefault(spec.shape[0], 1)
    return {spec.name: _closed(spec, sizes) for spec in specs}


def _take_batch(specs: Sequence[TensorSpec], batch: Size, sizes: dict[str, Size]) -> None:
    """Writes the batch into ``sizes``; a 1 there is what examples of shapes begin with, and gives way."""
    fixed = None
    for spec in specs:
        own = spec.shape[0] if spec.shape else batch
        if isinstance(own, str):
            sizes[own] = _batch(sizes.get(own, 1), batch)
        elif own != batch:
            fixed = fixed or spec
    if fixed is not None and not any(spec.shape and isinstance(spec.shape[0], str) for spec in specs):
        raise UsageError(
            f"--batch: expected an input whose batch is open, got {fixed}",
            hint="the batch was fixed when the model was exported; export it with a dynamic one (dynamic_axes)",
        )


def _batch(said: Size, batch: Size) -> Size:
    if said not in (1, batch):
        raise UsageError(
            f"--batch {batch}: expected the same first dimension in --input or --shape, or 1 there, got {said}",
            hint="say it in one of the two places",
        )
    return batch


def with_batch(shape: Shape, batch: Size | None) -> Shape:
    """A shape with the batch that was asked for, in the place of a first dimension of 1.

    Raises:
        UsageError: the shape has another batch already.
    """
    return shape if batch is None or not shape else (_batch(shape[0], batch), *shape[1:])


def open_shape(
    name: str, shape: Shape, own: Sequence[int | str] = (), *, batched: bool = True
) -> tuple[int | str, ...]:
    """The shape of an input in a graph, where a name stands for each range.

    Args:
        name: of the input.
        shape: numbers and ranges.
        own: the shape that the model has so far; its names are kept.
        batched: the first dimension is the batch, the same at all inputs.
    """
    names = [BATCH if axis == 0 and batched else f"{name}_{axis}" for axis in range(len(shape))]
    for axis, size in enumerate(own):
        names[axis] = size if isinstance(size, str) else names[axis]
    return tuple(called if isinstance(size, SizeRange) else size for called, size in zip(names, shape, strict=True))


def ranges_of_sizes(specs: Sequence[TensorSpec], shapes: Mapping[str, Shape]) -> dict[str, SizeRange]:
    """The range of each named dimension.

    Args:
        specs: the inputs, with names where a dimension is chosen at run time.
        shapes: by input, with the ranges in the places of the names.

    Raises:
        UsageError: a name stands for two ranges.
    """
    ranges: dict[str, SizeRange] = {}
    for spec in specs:
        for axis, (name, size) in enumerate(zip(spec.shape, shapes[spec.name], strict=True)):
            if isinstance(name, str) and isinstance(size, SizeRange) and ranges.setdefault(name, size) != size:
                raise UsageError(
                    f"--input: expected one range for dimension {axis} of '{spec.name}' and the dimension '{name}', "
                    f"which the model has equal, got {size} and {ranges[name]}",
                    hint="say the same range at both",
                )
    return ranges


def ranges_of_specs(specs: Sequence[TensorSpec], sizes: Mapping[str, SizeRange]) -> dict[str, ShapeRange]:
    """The least, usual and greatest shape of each input that has a dimension which is chosen at run time.

    Args:
        specs: the inputs of a graph.
        sizes: by the name of a dimension; every name in ``specs`` is there.
    """
    ranges = {}
    for spec in specs:
        if any(isinstance(size, str) for size in spec.shape):
            rows = [SizeRange(size, size, size) if isinstance(size, int) else sizes[size] for size in spec.shape]
            ranges[spec.name] = ShapeRange(*zip(*rows, strict=True))
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


def _given(specs: Sequence[TensorSpec], shapes: Mapping[str, Shape], image_shape: Shape | None) -> dict[str, Shape]:
    """The shapes that the user gives, by name."""
    given = dict(shapes)
    if not specs and (given or image_shape):
        raise UsageError("a shape was given, but the model has no inputs")
    if "" in given:
        given[specs[0].name] = given.pop("")
    if image_shape is not None:
        given[specs[0].name] = picture_shape(specs[0].shape, image_shape)
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
            hint="the numbers in the model's shape were fixed when it was exported; only names can be given a size "
            "or a range",
        )


def _closed(spec: TensorSpec, sizes: Mapping[str, Size]) -> Shape:
    """The input's own shape with a size or a range in the place of each name."""
    shape = [sizes.get(size, size) if isinstance(size, str) else size for size in spec.shape]
    unknown = [size for size in shape if isinstance(size, str)]
    if not unknown:
        return tuple(shape)  # type: ignore[arg-type]
    side, sides = (EXAMPLE_SIDE, EXAMPLE_SIDES) if len(shape) == 4 else (EXAMPLE_LENGTH, EXAMPLE_LENGTHS)
    one, several = (
        "x".join(str(example if isinstance(size, str) else size) for size in shape) for example in (side, sides)
    )
    raise UsageError(
        f"input {spec}: expected a size, or a range MIN:OPT:MAX, for each dimension, got none for "
        f"{' and '.join(unknown)}",
        hint=f"say which: --input {spec.name}:{one}; or, where it is chosen at run time: --input {spec.name}:{several}",
    )
