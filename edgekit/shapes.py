"""Shapes of a model's inputs: the sizes that the user gives, combined with those that the model leaves open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from edgekit.arguments import argument, either
from edgekit.errors import UsageError, nearest
from edgekit.specs import Shape, ShapeRange, Size, SizeRange, TensorSpec

__all__ = [
    "BATCH",
    "input_shapes",
    "open_shape",
    "image_shape_of",
    "ranges_of_sizes",
    "ranges_of_specs",
    "with_batch",
]

OpenShape: TypeAlias = "Sequence[Size | str]"

BATCH = "batch"
"""Name of a dynamic batch dimension that the model does not name."""

# Examples in messages: 224 is the input size of most classifiers.
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
    """Returns the shape of each input of an ONNX file: a size, or a range for a dynamic dimension.

    A dimension that several inputs share needs to be given for one of them only. The first dimension, the batch, is 1
    unless it is given.

    Args:
        specs: the model's inputs.
        given: shapes by input name; the name ``""`` is the first input.
        image_shape: shape of the first input: ``(H, W)`` or all its sizes.
        batch: batch size of all inputs.

    Raises:
        UsageError: a shape is for an unknown input or does not fit its input; a dimension has no size, or two.
    """
    given = _given(specs, given, image_shape)
    sizes: dict[str, Size] = {}
    for spec in specs:
        for own, size in zip(spec.shape, given.get(spec.name, ()), strict=False):
            if isinstance(own, str) and sizes.setdefault(own, size) != size:
                raise UsageError(
                    f"{argument('input')} or {argument('shape')}: expected one size of the dimension '{own}' in "
                    f"all inputs, got {sizes[own]} "
                    f"and {size}, the latter in {spec}",
                    hint="give it for one of the inputs, or the same size for all",
                )
    if batch is not None:
        _take_batch(specs, batch, sizes)
    for spec in specs:
        if spec.shape and isinstance(spec.shape[0], str):
            sizes.setdefault(spec.shape[0], 1)
    return {spec.name: _closed(spec, sizes) for spec in specs}


def _take_batch(specs: Sequence[TensorSpec], batch: Size, sizes: dict[str, Size]) -> None:
    """Writes the batch size into ``sizes``; it may replace a size of 1, with which example shapes begin."""
    fixed = None
    for spec in specs:
        own = spec.shape[0] if spec.shape else batch
        if isinstance(own, str):
            sizes[own] = _batch(sizes.get(own, 1), batch)
        elif own != batch:
            fixed = fixed or spec
    if fixed is not None and not any(spec.shape and isinstance(spec.shape[0], str) for spec in specs):
        raise UsageError(
            f"{argument('batch')}: expected an input with a dynamic batch dimension, got {fixed}",
            hint="the batch size was fixed at export; export the model with a dynamic batch (dynamic_axes)",
        )


def _batch(given: Size, batch: Size) -> Size:
    if given not in (1, batch):
        raise UsageError(
            f"{argument('batch', batch)}: expected the same first dimension in {argument('input')} or "
            f"{argument('shape')}, or 1, got {given}",
            hint="give the batch size in one of the two places",
        )
    return batch


def with_batch(shape: Shape, batch: Size | None) -> Shape:
    """Replaces a first dimension of 1 with the batch size that the user gives.

    Raises:
        UsageError: the shape already has another batch size.
    """
    return shape if batch is None or not shape else (_batch(shape[0], batch), *shape[1:])


def open_shape(
    name: str, shape: Shape, own: Sequence[int | str] = (), *, batched: bool = True
) -> tuple[int | str, ...]:
    """Returns the shape of a graph input, with a name for each dimension that has a range.

    Args:
        name: the input's name.
        shape: sizes and ranges.
        own: the input's shape in the model; its names are kept.
        batched: the first dimension is the batch, the same for all inputs.
    """
    names = [BATCH if axis == 0 and batched else f"{name}_{axis}" for axis in range(len(shape))]
    for axis, size in enumerate(own):
        names[axis] = size if isinstance(size, str) else names[axis]
    return tuple(name if isinstance(size, SizeRange) else size for name, size in zip(names, shape, strict=True))


def ranges_of_sizes(specs: Sequence[TensorSpec], shapes: Mapping[str, Shape]) -> dict[str, SizeRange]:
    """Returns the range of each named dimension.

    Args:
        specs: the inputs, with names for dynamic dimensions.
        shapes: the shapes by input name, with ranges for dynamic dimensions.

    Raises:
        UsageError: one name has two ranges.
    """
    ranges: dict[str, SizeRange] = {}
    for spec in specs:
        for axis, (name, size) in enumerate(zip(spec.shape, shapes[spec.name], strict=True)):
            if isinstance(name, str) and isinstance(size, SizeRange) and ranges.setdefault(name, size) != size:
                raise UsageError(
                    f"{argument('input')}: expected one range for dimension {axis} of '{spec.name}' and the "
                    f"dimension '{name}', "
                    f"which must be equal in the model, got {size} and {ranges[name]}",
                    hint="give the same range for both",
                )
    return ranges


def ranges_of_specs(specs: Sequence[TensorSpec], sizes: Mapping[str, SizeRange]) -> dict[str, ShapeRange]:
    """Returns the min, opt and max shapes of each input with a dynamic dimension.

    Args:
        specs: the inputs of a graph.
        sizes: ranges by dimension name; has every name in ``specs``.
    """
    ranges = {}
    for spec in specs:
        if any(isinstance(size, str) for size in spec.shape):
            rows = [SizeRange(size, size, size) if isinstance(size, int) else sizes[size] for size in spec.shape]
            ranges[spec.name] = ShapeRange(*zip(*rows, strict=True))
    return ranges


def image_shape_of(own: OpenShape, wanted: Shape | None) -> Shape:
    """Returns the shape of an image input with ``wanted``, ``(H, W)`` or all sizes, filled in; a dynamic batch is 1.

    Raises:
        UsageError: ``wanted`` has another length, or the input is not an image.
    """
    shape = [1 if axis == 0 and isinstance(size, str) else size for axis, size in enumerate(own)]
    if wanted is not None and len(wanted) == len(own):
        shape = list(wanted)
    elif wanted is not None:
        if len(own) != 4 or len(wanted) != 2:
            raise UsageError(
                f"{argument('shape')}: expected {either('HxW', '(H, W)')} of an image, or all {len(own)} sizes "
                f"of ({', '.join(map(str, own))}), "
                f"got {'x'.join(map(str, wanted))}"
            )
        first = 1 if own[3] in (1, 3) and own[1] not in (1, 3) else 2
        shape[first : first + 2] = wanted
    return tuple(shape)  # type: ignore[arg-type]  # callers check for names that remain


def _given(specs: Sequence[TensorSpec], shapes: Mapping[str, Shape], image_shape: Shape | None) -> dict[str, Shape]:
    """Returns the user's shapes by input name, after checking that they fit."""
    given = dict(shapes)
    if not specs and (given or image_shape):
        raise UsageError("a shape was given, but the model has no inputs")
    if "" in given:
        given[specs[0].name] = given.pop("")
    if image_shape is not None:
        given[specs[0].name] = image_shape_of(specs[0].shape, image_shape)
    known = [spec.name for spec in specs]
    for name in given:
        if name not in known:
            raise UsageError(f"{argument('input')}: the model has no input '{name}'", hint=nearest(name, known))
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
            f"{argument('input')} or {argument('shape')}: expected a shape that fits {spec}, got "
            f"{'x'.join(map(str, shape))}",
            hint="the numbers in the model's shape were fixed at export; only named dimensions can be given a size "
            "or a range",
        )


def _closed(spec: TensorSpec, sizes: Mapping[str, Size]) -> Shape:
    """Returns an input's shape with a size or a range for each name."""
    shape = [sizes.get(size, size) if isinstance(size, str) else size for size in spec.shape]
    unknown = [size for size in shape if isinstance(size, str)]
    if not unknown:
        return tuple(shape)  # type: ignore[arg-type]
    side, sides = (EXAMPLE_SIDE, EXAMPLE_SIDES) if len(shape) == 4 else (EXAMPLE_LENGTH, EXAMPLE_LENGTHS)
    one, several = (tuple(example if isinstance(size, str) else size for size in shape) for example in (side, sides))
    range_form = either("MIN:OPT:MAX", "(MIN, OPT, MAX)")
    raise UsageError(
        f"input {spec}: expected a size, or a range {range_form}, for each dimension, got none for "
        f"{' and '.join(unknown)}",
        hint=f"for one size: {argument('input', {spec.name: one})}; for a size that is chosen at run time: "
        f"{argument('input', {spec.name: several})}",
    )
