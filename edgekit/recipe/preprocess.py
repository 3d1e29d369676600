"""Preprocessing overrides from the caller: validated, converted, and merged into a recipe's preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgekit.arguments import argument, either
from edgekit.errors import UsageError
from edgekit.option import plain_number
from edgekit.recipe.messages import recipe_error
from edgekit.recipe.schema import Preprocess
from edgekit.text import shown

__all__ = ["given_fields", "merged"]


def given_fields(
    preprocess: Preprocess | Mapping[str, Any], *, option: str = "preprocess", text: bool = False
) -> dict[str, Any]:
    """Validates the given preprocessing fields and converts them to built-in types.

    Args:
        preprocess: all fields, or some of them by name.
        option: name of the option in error messages.
        text: accept numbers as text, as on a command line.

    Returns:
        The given fields only, without defaults for the others.

    Raises:
        UsageError: a field is unknown, or a value is invalid.
    """
    if not isinstance(preprocess, (Preprocess, Mapping)):
        raise UsageError(f"{option}: expected a Preprocess or a mapping of its fields, got {shown(preprocess)}")
    fields = msgspec.to_builtins(preprocess) if isinstance(preprocess, Preprocess) else _plain(preprocess)
    # The mean and std need one value per channel, so the missing fields must default to the same number of channels.
    lists = [fields[name] for name in ("mean", "std") if isinstance(fields.get(name), (list, tuple))]
    gray = fields.get("color", "gray" if any(len(values) == 1 for values in lists) else "rgb") == "gray"
    defaults = {"color": "gray", "mean": [0.0], "std": [1.0]} if gray else {}
    valid = msgspec.to_builtins(_converted({**defaults, **fields}, option, strict=not text))
    return {name: valid[name] for name in fields}


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: plain_number(value) for name, value in fields.items()}


def merged(preprocess: Preprocess, fields: Mapping[str, Any]) -> Preprocess:
    """Returns the preprocessing with some fields replaced.

    Raises:
        UsageError: the fields conflict, such as three means for a one-channel image.
    """
    return _converted({**msgspec.to_builtins(preprocess), **fields}, argument("preprocess"))


def _converted(fields: dict[str, Any], option: str, *, strict: bool = True) -> Preprocess:
    try:
        return msgspec.convert(fields, Preprocess, strict=strict)
    except msgspec.ValidationError as e:
        error = recipe_error(Path(option), e, fields, Preprocess)
        fields_of_one = either("--preprocess mean=0 and --preprocess std=1", "'mean': [0] and 'std': [1]")
        channel_hint = f"also give {fields_of_one}, one value for the one channel"
        wrong_channels = "one per channel of 'gray'" in error.message
        raise UsageError(
            error.message.removeprefix("recipe "), hint=channel_hint if wrong_channels else error.hint
        ) from e
