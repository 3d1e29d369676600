"""Values on the command line that are more than a word or a number: shapes, named shapes, preprocessing."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any, TypeAlias

import click

__all__ = [
    "Sizes",
    "batch_sizes",
    "engine_options",
    "fixed_shapes",
    "input_shapes",
    "model_or_cfg",
    "one_picture_shape",
    "picture_shape",
    "preprocess_fields",
]

LISTS = ("mean", "std")
SIZE = r"[1-9]\d*(?::[1-9]\d*:[1-9]\d*)?"
"""A number, or least, usual and greatest one of a range."""

Sizes: TypeAlias = "tuple[int | tuple[int, ...], ...]"


def one_picture_shape(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """``416x416`` or ``1x3x416x416`` as numbers."""
    if value is None:
        return None
    shape = tuple(map(int, value.split("x"))) if re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", value) else ()
    if len(shape) not in (2, 4):
        raise click.BadParameter(f"expected HxW or NxCxHxW, such as 416x416 or 1x3x416x416, got '{value}'")
    return shape


def picture_shape(ctx: click.Context, option: click.Parameter, value: str | None) -> Sizes | None:
    """``416x416``, ``1x3x416x416`` or ``320:416:640x320:416:640`` as numbers, and three of them for a range."""
    if value is None:
        return None
    shape = _shape(value)
    if len(shape) not in (2, 4):
        raise click.BadParameter(
            "expected HxW or NxCxHxW, such as 416x416 or 1x3x416x416, each of them a number or a range MIN:OPT:MAX, "
            f"got '{value}'"
        )
    return shape


def input_shapes(ctx: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, Sizes] | None:
    """``images:1x3x48x32:320:2048`` as shape by name; the name is empty where only a shape was given."""
    shapes: dict[str, Sizes] = {}
    for value in values:
        name, shape = _named_shape(value)
        if not shape:
            raise click.BadParameter(
                "expected [NAME:]SHAPE, such as images:1x3x224x224, with numbers or ranges MIN:OPT:MAX, as in "
                f"images:1x3x48x32:320:2048, got '{value}'"
            )
        if name in shapes or (shapes and "" in (name, *shapes)):
            raise click.BadParameter(f"expected a name of its own before each of several shapes, got '{value}'")
        shapes[name] = shape
    return shapes or None


def fixed_shapes(
    ctx: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> dict[str, tuple[int, ...]] | None:
    """`input_shapes` without ranges."""
    found: dict[str, tuple[int, ...]] = {}
    for name, sizes in (input_shapes(ctx, option, values) or {}).items():
        found[name] = tuple(size for size in sizes if isinstance(size, int))
        if len(found[name]) != len(sizes):
            raise click.BadParameter(f"expected one size a dimension, got a range in '{' '.join(values)}'")
    return found or None


def batch_sizes(ctx: click.Context, option: click.Parameter, value: str | None) -> int | tuple[int, ...] | None:
    """``4`` as a number, or ``1:4:16`` as the least, usual and greatest one."""
    if value is None:
        return None
    if not re.fullmatch(SIZE, value):
        raise click.BadParameter(f"expected a number, or MIN:OPT:MAX such as 1:4:16, got '{value}'")
    return _size(value)


def compute_capabilities(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...]:
    """``86,89`` or ``8.6,8.9`` as numbers."""
    if value is None:
        return ()
    if not re.fullmatch(r"\d+\.?\d(,\d+\.?\d)*", value):
        raise click.BadParameter(f"expected compute capabilities, such as 86,89,120, got '{value}'")
    return tuple(int(word.replace(".", "")) for word in value.split(","))


def model_or_cfg(command: Callable[..., None]) -> Callable[..., None]:
    """Adds ``--cfg FILE.cfg``, which says the same as the file in the place of MODEL."""

    @functools.wraps(command)
    def with_model(*args: Any, model: str | None, cfg: str | None, **options: Any) -> None:
        if model is None and cfg is None:
            raise click.UsageError("Missing argument 'MODEL'.")
        if model is not None and cfg is not None:
            raise click.UsageError(f"--cfg is a model by itself: expected one, got '{model}' and '{cfg}'")
        if cfg is not None and not cfg.endswith(".cfg"):
            raise click.BadParameter(f"expected a Darknet file that ends in .cfg, got '{cfg}'", param_hint="--cfg")
        command(*args, model=model or cfg, **options)

    return click.option("--cfg", metavar="FILE.cfg", help="A Darknet network; the same as giving the file as MODEL.")(
        with_model
    )


def engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds what builders for GPUs are told; the command gets it all as one value, ``engine``."""

    @functools.wraps(command)
    def with_engine(*args: Any, **options: Any) -> None:
        from edgekit.config import EngineOptions

        engine = EngineOptions(**{field.name: options.pop(field.name) for field in dataclasses.fields(EngineOptions)})
        command(*args, engine=engine, **options)

    for option in reversed(ENGINE_OPTIONS):
        with_engine = option(with_engine)
    return with_engine


ENGINE_OPTIONS = (
    click.option("--sm", callback=compute_capabilities, metavar="LIST", help="GPUs to build for, as in 86,89,120."),
    click.option(
        "--workspace", "workspace_mib", type=click.IntRange(min=0), default=0, metavar="MIB", help="Memory to tune in."
    ),
    click.option("--timing-cache", metavar="FILE", help="Measured kernels; EdgeKit keeps one per GPU and version."),
    click.option("--dla", type=click.IntRange(min=0), metavar="N", help="Deep-learning accelerator to run on."),
    click.option("--version-compatible", is_flag=True, help="To load in later versions of TensorRT too."),
    click.option("--hardware-compatible", is_flag=True, help="To run on other GPUs too."),
    click.option("--refittable", is_flag=True, help="Weights can be replaced in the built engine."),
    click.option("--strip-weights", is_flag=True, help="Weights stay beside the engine, in graph.onnx."),
)


def preprocess_fields(ctx: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, Any] | None:
    """``color=bgr`` and ``mean=0.5,0.5,0.5`` as fields of a recipe's preprocessing; only those that are given.

    Raises:
        UsageError: an unknown field, or a value that it cannot have.
    """
    if not values:
        return None
    from edgekit.config import given_fields

    fields: dict[str, str | list[str]] = {}
    for value in values:
        field, _, text = value.partition("=")
        if not text:
            raise click.BadParameter(f"expected FIELD=VALUE, such as color=bgr or mean=0.5,0.5,0.5, got '{value}'")
        fields[field] = text.split(",") if field in LISTS else text
    return given_fields(fields, option=option.opts[0], text=True)


def _named_shape(value: str) -> tuple[str, Sizes]:
    """Name and shape of ``name:1x3x48x32:320:2048``; no shape where it is something else."""
    # An exporter's names may have colons of their own, as ranges do: the name is as short as it can be, but what has
    # the looks of a shape is none.
    words = value.split(":")
    for count in range(len(words)):
        name, shape = ":".join(words[:count]), _shape(":".join(words[count:]))
        if shape:
            return name, () if any(re.fullmatch(r"\d+(x\d+)+", word) for word in words[:count]) else shape
    return value, ()


def _shape(text: str) -> Sizes:
    """Sizes above 0, or ranges of them, with ``x`` between them; nothing where it is something else."""
    return tuple(map(_size, text.split("x"))) if re.fullmatch(f"{SIZE}(x{SIZE})*", text) else ()


def _size(text: str) -> int | tuple[int, ...]:
    numbers = tuple(map(int, text.split(":")))
    return numbers if len(numbers) > 1 else numbers[0]
