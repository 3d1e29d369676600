"""Error messages for invalid recipes: file, field, expected value, actual value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import msgspec.inspect

from edgekit.errors import RecipeError, nearest

__all__ = ["expect", "recipe_error", "toml_error"]

Keys = tuple["str | int", ...]

_TOML_NAMES = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "an integer",
    "null": "nothing",
    "object": "a table",
    "object | null": "a table",
    "str": "a string",
}


def expect(condition: bool, field: str, expected: str, got: object) -> None:
    """Raises a `ValueError` in the form that `recipe_error` parses, unless the condition is true."""
    if not condition:
        raise ValueError(f"{field}: expected {expected}, got {shown(got)}")


def shown(value: object) -> str:
    """Returns the ``repr`` of a value, truncated to 60 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to convert integers of more than 4300 digits to text
        text = "a very large number"
    return text if len(text) <= 60 else f"{text[:57]}..."


def recipe_error(file: Path, error: msgspec.ValidationError, raw: dict[str, Any], struct: type) -> RecipeError:
    """Converts a msgspec validation error to a `RecipeError` that names the TOML field.

    Args:
        file: the recipe file.
        error: the error that `msgspec.convert` raised.
        raw: the parsed TOML data.
        struct: the target type of the conversion.
    """
    text, _, path = str(error).rpartition(" - at `")
    text, keys = (text, _keys(path, raw, struct)) if text else (path, ())
    if match := re.fullmatch(r"Object contains unknown field `(.*)`", text, re.DOTALL):
        name = match[1]
        known = [field.encode_name for field in _type_at(struct, keys, raw).fields]
        return RecipeError(f"recipe {file}: {dotted((*keys, name))}: unknown field", hint=nearest(name, known))
    if match := re.fullmatch(r"Object missing required field `(.*)`", text):
        return RecipeError(f"recipe {file}: {dotted((*keys, match[1]))}: expected a value, got none")
    if re.match(r"Expected `|Invalid (enum )?value|(Number|Integer value) out of range", text):
        expected = _expected(text, _type_at(struct, keys, raw))
        return RecipeError(f"recipe {file}: {dotted(keys)}: expected {expected}, got {shown(_value_at(raw, keys))}")
    return RecipeError(f"recipe {file}: {dotted(keys)}{'.' if keys else ''}{text}")


def toml_error(file: Path, error: ValueError) -> RecipeError:
    """Converts a TOML parser error to a `RecipeError` that starts with the line and column."""
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
    """Formats keys as a TOML path: ``postprocess.head.heads[0].stride``."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def _keys(path: str, raw: Any, struct: type) -> Keys:
    """Parses a msgspec path into keys; msgspec writes ``[...]`` for a dict key, which is looked up in ``raw``."""
    keys: list[str | int] = []
    for name, index in re.findall(r"\.([A-Za-z_]\w*)|\[(\d+|\.\.\.)\]", path):
        if index == "...":
            keys.append(_invalid_key(_value_at(raw, tuple(keys)), _type_at(struct, tuple(keys), raw)))
        else:
            keys.append(int(index) if index else name)
    return tuple(keys)


def _invalid_key(table: dict[str, Any], kind: Any) -> str:
    value_type = kind.value_type.cls
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


def _type_at(struct: type, keys: Keys, raw: Any) -> Any:
    """Returns the msgspec type description of the field at ``keys``; of a string its constraints too."""
    kind: Any = msgspec.inspect.type_info(struct)
    for key in keys:
        kind = _inner(_plain(kind, raw), key)
        raw = raw.get(key) if isinstance(raw, dict) else raw[int(key)] if isinstance(raw, list) else None
    inner = _plain(kind, raw)
    return kind if isinstance(inner, msgspec.inspect.StrType) else inner


def _plain(kind: Any, raw: Any) -> Any:
    """Strips constraints, and the ``None`` of an optional table; chooses the member of a tagged union."""
    while isinstance(kind, msgspec.inspect.Metadata | msgspec.inspect.UnionType):
        if isinstance(kind, msgspec.inspect.Metadata):
            kind = kind.type
            continue
        structs = [each for each in kind.types if isinstance(each, msgspec.inspect.StructType)]
        tagged = [each for each in structs if isinstance(raw, dict) and raw.get(each.tag_field) == each.tag]
        if len(structs) > 1 and not tagged:  # the tag itself is wrong
            return _Untagged(structs)
        kind = tagged[0] if tagged else structs[0] if structs else kind.types[0]
    return kind


class _Untagged(NamedTuple):
    """A tagged union whose tag is unknown."""

    structs: list[Any]


def _inner(kind: Any, key: str | int) -> Any:
    if isinstance(kind, _Untagged):
        return msgspec.inspect.LiteralType(values=tuple(each.tag for each in kind.structs))
    if isinstance(kind, msgspec.inspect.StructType):
        if key == kind.tag_field:
            return msgspec.inspect.LiteralType(values=(kind.tag,))
        return next(field.type for field in kind.fields if field.encode_name == key)
    if isinstance(kind, msgspec.inspect.TupleType):
        return kind.item_types[int(key)]
    if isinstance(kind, msgspec.inspect.VarTupleType):
        return kind.item_type
    return kind.value_type


def _expected(text: str, kind: Any) -> str:
    if " matching regex " in text and isinstance(kind, msgspec.inspect.Metadata):
        return str((kind.extra_json_schema or {}).get("description", text))
    if isinstance(kind, msgspec.inspect.LiteralType):
        return f"one of {', '.join(str(value) for value in kind.values)}"
    if text in ("Number out of range", "Integer value out of range"):
        return "a number that fits 64 bits"
    text = re.sub(r", got .*$", "", text.removeprefix("Expected "))
    text = re.sub(r"`([^`]*)`", lambda match: _TOML_NAMES.get(match[1], match[1]), text)
    return text.replace("a string of length >= 1", "a non-empty string")
