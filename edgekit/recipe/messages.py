"""What is wrong with a recipe, said so that it can be mended: file, field, what was expected, what was got."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect

from edgekit.errors import RecipeError, nearest

__all__ = ["expect", "recipe_error", "toml_error"]

Keys = tuple["str | int", ...]

_TOML_NAMES = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "null": "nothing",
    "object": "a table",
    "object | null": "a table",
    "str": "a string",
}


def expect(condition: bool, field: str, expected: str, got: object) -> None:
    """Raises the `ValueError` that `recipe_error` understands, unless the condition holds."""
    if not condition:
        raise ValueError(f"{field}: expected {expected}, got {shown(got)}")


def shown(value: object) -> str:
    """A value as a message shows it: as Python writes it, at most 60 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print whole numbers of more than 4300 digits
        text = "a very large number"
    return text if len(text) <= 60 else f"{text[:57]}..."


def recipe_error(file: Path, error: msgspec.ValidationError, raw: dict[str, Any], struct: type) -> RecipeError:
    """The error of msgspec in the recipe's own terms.

    Args:
        file: the recipe.
        error: what `msgspec.convert` raised.
        raw: what was to be converted.
        struct: what it was to be converted to.
    """
    text, _, path = str(error).rpartition(" - at `")
    text, keys = (text, _keys(path, raw, struct)) if text else (path, ())
    if match := re.fullmatch(r"Object contains unknown field `(.*)`", text, re.DOTALL):
        name = match[1]
        known = [field.encode_name for field in _plain(_type_at(struct, keys)).fields]
        return RecipeError(f"recipe {file}: {dotted((*keys, name))}: unknown field", hint=nearest(name, known))
    if match := re.fullmatch(r"Object missing required field `(.*)`", text):
        return RecipeError(f"recipe {file}: {dotted((*keys, match[1]))}: expected a value, got none")
    if re.match(r"Expected `|Invalid enum value|Number out of range", text):
        expected = _expected(text, _type_at(struct, keys))
        return RecipeError(f"recipe {file}: {dotted(keys)}: expected {expected}, got {shown(_value_at(raw, keys))}")
    return RecipeError(f"recipe {file}: {dotted(keys)}{'.' if keys else ''}{text}")


def toml_error(file: Path, error: ValueError) -> RecipeError:
    """The error of a TOML parser, with its place in front."""
    if isinstance(error, UnicodeDecodeError):
        return RecipeError(f"recipe {file}: expected UTF-8 text, got the byte 0x{error.object[error.start]:02x} "
                           f"at offset {error.start}")  # fmt: skip
    text = str(error)
    place = ""
    if match := re.search(r" \(at line (\d+), column (\d+)\)$", text):
        place = f", line {match[1]}, column {match[2]}"
        text = text[: match.start()]
    return RecipeError(f"recipe {file}{place}: not valid TOML: {text[:200]}")


def dotted(keys: Keys) -> str:
    """The place as one would write it in TOML: ``postprocess.heads[0].stride``."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def _keys(path: str, raw: Any, struct: type) -> Keys:
    """The keys of msgspec's path; it writes ``[...]`` for a key of a dict, which is then searched for."""
    keys: list[str | int] = []
    for name, index in re.findall(r"\.([A-Za-z_]\w*)|\[(\d+|\.\.\.)\]", path):
        if index == "...":
            keys.append(_misfit(_value_at(raw, tuple(keys)), _type_at(struct, tuple(keys))))
        else:
            keys.append(int(index) if index else name)
    return tuple(keys)


def _misfit(table: dict[str, Any], kind: Any) -> str:
    value_type = _plain(kind).value_type.cls
    for key, value in table.items():
        try:
            msgspec.convert(value, value_type)
        except msgspec.ValidationError:
            return key
    return "..."


def _value_at(raw: Any, keys: Keys) -> Any:
    for key in keys:
        raw = raw[key]
    return raw


def _type_at(struct: type, keys: Keys) -> Any:
    """What msgspec knows of the type that stands at this place of the format."""
    kind: Any = msgspec.inspect.type_info(struct)
    for key in keys:
        kind = _inner(_plain(kind), key)
    return kind


def _plain(kind: Any) -> Any:
    """Without the limits, and without the ``None`` of an optional table."""
    while isinstance(kind, msgspec.inspect.Metadata | msgspec.inspect.UnionType):
        kind = kind.type if isinstance(kind, msgspec.inspect.Metadata) else kind.types[0]
    return kind


def _inner(kind: Any, key: str | int) -> Any:
    if isinstance(kind, msgspec.inspect.StructType):
        return next(field.type for field in kind.fields if field.encode_name == key)
    if isinstance(kind, msgspec.inspect.TupleType):
        return kind.item_types[int(key)]
    if isinstance(kind, msgspec.inspect.VarTupleType):
        return kind.item_type
    return kind.value_type


def _expected(text: str, kind: Any) -> str:
    if " matching regex " in text and isinstance(kind, msgspec.inspect.Metadata):
        return str((kind.extra_json_schema or {}).get("description", text))
    kind = _plain(kind)
    if isinstance(kind, msgspec.inspect.LiteralType):
        return f"one of {', '.join(str(value) for value in kind.values)}"
    if text == "Number out of range":
        return "a number that fits 64 bits"
    text = re.sub(r", got .*$", "", text.removeprefix("Expected "))
    text = re.sub(r"`([^`]*)`", lambda match: _TOML_NAMES.get(match[1], match[1]), text)
    return text.replace("a string of length >= 1", "a string that is not empty")
