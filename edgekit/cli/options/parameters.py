"""Options that several commands share and that are not build options."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from edgekit.cli.options.declare import HeadedOption
from edgekit.limits import MAX_SIZE, MAX_THREADS
from edgekit.option.sizes import parse_named_shapes

__all__ = ["Real", "fixed_shapes", "image_shape", "model_or_cfg", "threads_option"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Real(click.FloatRange):
    """A number in a range; NaN is in none."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"expected a number, got '{value}'", param, ctx)
        return number


def image_shape(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Parses ``416x416`` or ``1x3x416x416``."""
    if value is None:
        return None
    shape = tuple(map(int, value.split("x"))) if re.fullmatch(r"[1-9]\d{0,9}(x[1-9]\d{0,9})*", value) else ()
    if len(shape) not in (2, 4):
        raise click.BadParameter(f"expected HxW or NxCxHxW, such as 416x416 or 1x3x416x416, got '{value}'")
    if max(shape) > MAX_SIZE:
        raise click.BadParameter(f"expected sizes up to {MAX_SIZE:,}, got '{value}'")
    return shape


def fixed_shapes(
    ctx: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> dict[str, tuple[int, ...]] | None:
    """Parses shapes such as ``images:1x3x224x224`` into sizes by input name; ranges are an error."""
    found: dict[str, tuple[int, ...]] = {}
    try:
        shapes = parse_named_shapes(values, empty=True) or {}
    except ValueError as e:
        raise click.BadParameter(str(e)) from e
    for name, sizes in shapes.items():
        found[name] = tuple(size for size in sizes if isinstance(size, int))
        if len(found[name]) != len(sizes):
            raise click.BadParameter(f"expected one size per dimension, got a range in '{' '.join(values)}'")
    return found or None


def model_or_cfg(command: Callable[..., None]) -> Callable[..., None]:
    """Adds ``--cfg FILE.cfg``, the same as the file as MODEL."""

    @functools.wraps(command)
    def with_model(*args: Any, model: str | None, cfg: str | None, **options: Any) -> None:
        if model is None and cfg is None:
            raise click.UsageError("Missing argument 'MODEL'.")
        if model is not None and cfg is not None:
            raise click.UsageError(f"--cfg and MODEL: expected one of them, got '{cfg}' and '{model}'")
        if cfg is not None and not cfg.endswith(".cfg"):
            raise click.BadParameter(f"expected a Darknet file that ends in .cfg, got '{cfg}'", param_hint="--cfg")
        command(*args, model=model or cfg, **options)

    help = "A Darknet cfg file; the same as the file as MODEL."
    return click.option("--cfg", cls=HeadedOption, heading="Model", metavar="FILE.cfg", help=help)(with_model)


def threads_option(text: str = "Number of threads; 0 lets the backend choose.") -> Callable[[_Command], _Command]:
    """Declares ``--threads``, with this help."""
    return click.option("--threads", type=click.IntRange(0, MAX_THREADS), default=0, metavar="N", help=text)
