"""Values on the command line that are more than a word or a number: shapes, named shapes, preprocessing."""

from __future__ import annotations

import re
from typing import Any

import click

__all__ = ["input_shapes", "picture_shape", "preprocess_fields"]

LISTS = ("mean", "std")


def picture_shape(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """``416x416`` or ``1x3x416x416`` as numbers."""
    if value is None:
        return None
    shape = _shape(value)
    if len(shape) not in (2, 4):
        raise click.BadParameter(f"expected HxW or NxCxHxW, such as 416x416 or 1x3x416x416, got '{value}'")
    return shape


def input_shapes(
    ctx: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> dict[str, tuple[int, ...]] | None:
    """``images:1x3x224x224`` as shape by name; the name is empty where only a shape was given."""
    shapes: dict[str, tuple[int, ...]] = {}
    for value in values:
        # An exporter's names may have colons of their own.
        name, _, text = value.rpartition(":")
        shape = _shape(text)
        if not shape:
            raise click.BadParameter(f"expected [NAME:]SHAPE, such as images:1x3x224x224, got '{value}'")
        if name in shapes or (shapes and "" in (name, *shapes)):
            raise click.BadParameter(f"expected a name of its own before each of several shapes, got '{value}'")
        shapes[name] = shape
    return shapes or None


def preprocess_fields(ctx: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, Any] | None:
    """``color=bgr`` and ``mean=0.5,0.5,0.5`` as fields of a recipe's preprocessing; only those that are given.

    Raises:
        UsageError: an unknown field, or a value that it cannot have.
    """
    if not values:
        return None
    from edgekit.order import given_fields

    fields: dict[str, str | list[str]] = {}
    for value in values:
        field, _, text = value.partition("=")
        if not text:
            raise click.BadParameter(f"expected FIELD=VALUE, such as color=bgr or mean=0.5,0.5,0.5, got '{value}'")
        fields[field] = text.split(",") if field in LISTS else text
    return given_fields(fields, option=option.opts[0], text=True)


def _shape(text: str) -> tuple[int, ...]:
    """Sizes above 0 with ``x`` between them; nothing where it is something else."""
    return tuple(map(int, text.split("x"))) if re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text) else ()
