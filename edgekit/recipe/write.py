"""Writes a recipe as TOML: only what differs from the defaults, in the order of the schema."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import tomli_w

from edgekit.recipe.schema import Recipe

__all__ = ["recipe_toml"]


def recipe_toml(recipe: Recipe) -> str:
    """Returns the text of a recipe file; `recipe_from_file` reads the same recipe from it."""
    values = _without_defaults(msgspec.to_builtins(recipe), recipe)
    text = tomli_w.dumps(values, indent=4)
    # Short lists of numbers, such as shapes, stay on a line.
    return re.sub(r"\[\n((?: +[-\d.]+,\n)+) *\]", lambda found: f"[{', '.join(_items(found[1]))}]", text)


def _items(lines: str) -> list[str]:
    return [line.strip().rstrip(",") for line in lines.splitlines()]


def _without_defaults(values: Any, struct: Any) -> Any:
    """Leaves out the fields of structs that have their default values."""
    if isinstance(struct, msgspec.Struct):
        tag = struct.__struct_config__.tag
        kept = {struct.__struct_config__.tag_field: tag} if tag is not None else {}
        for field in msgspec.structs.fields(struct):
            value = getattr(struct, field.name)
            if value is not None and value != {} and (field.required or value != field.default):
                kept[field.encode_name] = _without_defaults(values[field.encode_name], value)
        return kept
    if isinstance(struct, tuple):
        return [_without_defaults(value, each) for value, each in zip(values, struct, strict=True)]
    if isinstance(struct, dict):
        return {key: _without_defaults(values[key], each) for key, each in struct.items()}
    return values
