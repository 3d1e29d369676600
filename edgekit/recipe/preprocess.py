"""Preprocessing fields that a caller gives: checked, completed, and merged into a recipe's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgekit.errors import UsageError
from edgekit.recipe.messages import recipe_error
from edgekit.recipe.schema import Preprocess

__all__ = ["given_fields", "merged"]


def given_fields(
    preprocess: Preprocess | Mapping[str, Any], *, option: str = "preprocess", text: bool = False
) -> dict[str, Any]:
    """The fields of a recipe's preprocessing that are given, and no others, as plain values of their own types.

    Args:
        preprocess: all fields, or some of them by name.
        option: what a message calls them.
        text: numbers may be written as text, as a command line has them.

    Raises:
        UsageError: an unknown field, or values that no preprocessing can have.
    """
    if not isinstance(preprocess, (Preprocess, Mapping)):
        raise UsageError(f"{option}: expected a Preprocess or a mapping of its fields, got {preprocess!r}")
    fields = msgspec.to_builtins(preprocess) if isinstance(preprocess, Preprocess) else dict(preprocess)
    # Fields that are not given come later, and there is a mean for each channel.
    lists = [fields[name] for name in ("mean", "std") if isinstance(fields.get(name), (list, tuple))]
    gray = fields.get("color", "gray" if any(len(values) == 1 for values in lists) else "rgb") == "gray"
    rest = {"color": "gray", "mean": [0.0], "std": [1.0]} if gray else {}
    valid = msgspec.to_builtins(_converted({**rest, **fields}, option, strict=not text))
    return {name: valid[name] for name in fields}


def merged(preprocess: Preprocess, fields: Mapping[str, Any]) -> Preprocess:
    """The preprocessing with some of its fields replaced.

    Raises:
        UsageError: they do not go together, as three means and a picture of one channel.
    """
    return _converted({**msgspec.to_builtins(preprocess), **fields}, "--preprocess")


def _converted(fields: dict[str, Any], option: str, *, strict: bool = True) -> Preprocess:
    try:
        return msgspec.convert(fields, Preprocess, strict=strict)
    except msgspec.ValidationError as e:
        error = recipe_error(Path(option), e, fields, Preprocess)
        one_channel = "give --preprocess mean=0 and --preprocess std=1 too, one number for the one channel"
        lacks = "one a channel of 'gray'" in error.message
        raise UsageError(error.message.removeprefix("recipe "), hint=one_channel if lacks else error.hint) from e
