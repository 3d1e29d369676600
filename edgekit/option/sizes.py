"""Sizes in options: shapes of inputs and batch sizes, each of them a number or a range."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgekit.arguments import argument

if TYPE_CHECKING:
    from edgekit.specs import Shape, Size

__all__ = [
    "Sizes",
    "convert_batch",
    "convert_shape",
    "parse_batch",
    "parse_image_shape",
    "parse_inputs",
    "parse_named_shapes",
    "parse_shape",
    "write_inputs",
    "write_shape",
]

Sizes = tuple["int | tuple[int, ...]", ...]

_NUMBER = r"[1-9]\d{0,9}"
_BATCH = f"{_NUMBER}(?::{_NUMBER}:{_NUMBER})?"
"""A number, or the minimum, optimum and maximum of a range."""
_SIZE = f"(?:(?:0|{_NUMBER}):{_NUMBER}:{_NUMBER}|{_NUMBER})"
"""As `_BATCH`, but a range may begin at 0: a decoder's cache is empty before its first step."""


def parse_shape(text: str, *, empty: bool = False) -> Sizes:
    """Parses a shape such as ``1x3x48x32:320:2048``; returns an empty tuple if the text is not a shape.

    With ``empty``, a size may be 0.
    """
    size = f"(?:0|{_SIZE})" if empty else _SIZE
    return tuple(map(_size, text.split("x"))) if re.fullmatch(f"{size}(x{size})*", text) else ()


def _size(text: str) -> int | tuple[int, ...]:
    numbers = tuple(map(int, text.split(":")))
    return numbers if len(numbers) > 1 else numbers[0]


def parse_image_shape(text: str) -> Sizes:
    """Parses the shape of an image, with or without batch and channels."""
    shape = parse_shape(text)
    if len(shape) not in (2, 4):
        raise ValueError(
            "expected HxW or NxCxHxW, such as 416x416 or 1x3x416x416, each of them a number or a range MIN:OPT:MAX, "
            f"got '{text}'"
        )
    return shape


def parse_named_shapes(texts: Sequence[str], *, empty: bool = False) -> dict[str, Sizes] | None:
    """Parses texts such as ``images:1x3x48x32:320:2048`` to shapes by name; the name is empty if none is given.

    With ``empty``, a size may be 0, as of arrays for an engine whose range begins there.
    """
    shapes: dict[str, Sizes] = {}
    for text in texts:
        name, shape = _named_shape(text, empty)
        if not shape:
            raise ValueError(
                "expected [NAME:]SHAPE, such as images:1x3x224x224, with numbers or ranges MIN:OPT:MAX, as in "
                f"images:1x3x48x32:320:2048, got '{text}'"
            )
        if name in shapes or (shapes and "" in (name, *shapes)):
            raise ValueError(f"expected a different name before each of several shapes, got '{text}'")
        shapes[name] = shape
    return shapes or None


def parse_inputs(texts: Sequence[str]) -> dict[str, Any] | None:
    """Parses shapes, as `parse_named_shapes`, and values such as ``sr=16000``."""
    shapes = parse_named_shapes([text for text in texts if "=" not in text]) or {}
    values = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        if equals:
            values[name] = _number(text, number)
    return {**shapes, **values} or None


def _number(text: str, number: str) -> int | float:
    for kind in (int, float):
        try:
            return kind(number)
        except ValueError:
            continue
    raise ValueError(f"expected NAME=VALUE with a number, such as sr=16000, got '{text}'")


def _named_shape(text: str, empty: bool) -> tuple[str, Sizes]:
    """Splits ``name:1x3x48x32:320:2048`` into name and shape; the shape is empty if the text has another form."""
    # Names from exporters may contain colons, as ranges do: the name is the shortest prefix that leaves a shape, and a
    # prefix that looks like a shape is not a name.
    words = text.split(":")
    for count in range(len(words)):
        name, shape = ":".join(words[:count]), parse_shape(":".join(words[count:]), empty=empty)
        if shape:
            return name, () if any(re.fullmatch(r"\d+(x\d+)+", word) for word in words[:count]) else shape
    return text, ()


def parse_batch(text: str) -> int | tuple[int, ...]:
    """Parses a batch size or its range."""
    if not re.fullmatch(_BATCH, text):
        raise ValueError(f"expected a number, or MIN:OPT:MAX such as 1:4:16, got '{text}'")
    return _size(text)


def write_shape(shape: Shape) -> str:
    """Returns a shape as `parse_shape` reads it."""
    return "x".join(map(str, shape))


def write_inputs(inputs: Mapping[str, Shape | int | float]) -> list[str]:
    """Returns shapes and values of inputs as `parse_inputs` reads them."""
    return [
        f"{name}={given}" if isinstance(given, (int, float)) else f"{name}:{write_shape(given)}".removeprefix(":")
        for name, given in inputs.items()
    ]


def _specs() -> ModuleType:
    from edgekit import specs  # needs msgspec, which `--help` does not load

    return specs


def convert_shape(shape: Sequence[int | Sequence[int]] | None) -> Shape | None:
    """Checks a shape that a Python caller gives."""
    return None if shape is None else _specs().shape_from_sizes(shape, argument("shape"))


def convert_batch(batch: int | Sequence[int] | None) -> Size | None:
    """Checks a batch size, or a range of it, that a Python caller gives."""
    return None if batch is None else _specs().size_from_value(batch, argument("batch"))
