"""The reference of recipes, from the structs of the schema, their types and their docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import msgspec.inspect as types

from edgekit.recipe.schema import Recipe
from tools.docs.markdown import code, note_on_origin, table

__all__ = ["documented", "markdown_from_schema"]

INTRODUCTION = """\
# Recipes

{note}

A recipe is a TOML file with everything that EdgeKit knows about a model besides its code. Those that ship are in
[`recipes/`](../recipes); [`recipes/lenet.toml`](../recipes/lenet.toml) is a short one. `edgekit build my-recipe.toml`
takes a recipe of your own; see [Your own model](own-model.md). An unknown key, a wrong type and a value out of range
are errors that name the file, the field, what was expected and what was found.
"""
LARGE = 2**31 - 1
"""From here on an upper limit only says that the number fits into the file format."""
NAMED = {types.StrType: "string", types.BoolType: "true or false", types.AnyType: "any value"}


def markdown_from_schema() -> str:
    lines = [INTRODUCTION.format(note=note_on_origin("edgekit/recipe/schema.py")).rstrip()]
    for path, struct in _tables("", types.type_info(Recipe)):
        lines += ["", *_section(path, struct)]
    return "\n".join(lines) + "\n"


def _tables(path: str, struct: types.StructType) -> Iterator[tuple[str, types.StructType]]:
    """A struct and those in its fields, each with its heading in TOML."""
    yield path, struct
    seen = set()
    for field in struct.fields:
        inner, many, named = _structs_in(field.type)
        for each in inner:
            name = f"{path}.{field.encode_name}" if path else field.encode_name
            # Members of a tagged union may hold the same struct.
            for found in _tables(f"{name}{'[]' if many else '.NAME' if named else ''}", each):
                if (key := (found[0], found[1].cls)) not in seen:
                    seen.add(key)
                    yield found


def _structs_in(kind: types.Type) -> tuple[list[types.StructType], bool, bool]:
    """The structs that a type holds, several in a tagged union, whether in a list, and whether in a table by name."""
    if isinstance(kind, types.Metadata):
        return _structs_in(kind.type)
    if isinstance(kind, types.StructType):
        return [kind], False, False
    if isinstance(kind, types.UnionType):
        return [struct for each in kind.types for struct in _structs_in(each)[0]], False, False
    if isinstance(kind, types.VarTupleType):
        return _structs_in(kind.item_type)[0], True, False
    if isinstance(kind, types.DictType):
        return _structs_in(kind.value_type)[0], False, True
    return [], False, False


def _section(path: str, struct: types.StructType) -> Iterator[str]:
    summary, attributes = documented(struct.cls)
    tag = "" if struct.tag is None else f" {struct.tag_field} = {struct.tag}"
    yield f"## {_heading(path)}{tag}"
    yield from ("", summary, "")
    rows = [(field, attributes.get(field.name, "")) for field in struct.fields if not _structs_in(field.type)[0]]
    yield from table(
        ("key", "type", "default", "meaning"),
        ((code(f.encode_name), _type(f.type), _default(f), meaning) for f, meaning in rows),
    )


def _heading(path: str) -> str:
    if not path:
        return "Top level"
    return f"[[{path.removesuffix('[]')}]]" if path.endswith("[]") else f"[{path}]"


def documented(cls: Any) -> tuple[str, dict[str, str]]:
    """The text of a docstring before ``Attributes:``, and the attributes in it, as Markdown."""
    text, _, listed = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")
    attributes = re.split(r"^ {4}(\w+): ", listed, flags=re.MULTILINE)[1:]
    pairs = zip(attributes[::2], attributes[1::2], strict=True)
    return _prose(text), {name: _prose(meaning) for name, meaning in pairs}


def _prose(text: str) -> str:
    """Lines joined, and ``code`` with one backtick."""
    return "\n\n".join(" ".join(part.split()) for part in text.replace("``", "`").strip().split("\n\n"))


def _type(kind: types.Type) -> str:
    if isinstance(kind, types.Metadata):
        return (kind.extra_json_schema or {}).get("description") or _type(kind.type)
    if isinstance(kind, types.LiteralType):
        return ", ".join(code(str(value)) for value in kind.values)
    if isinstance(kind, (types.IntType, types.FloatType)):
        return ("whole number" if isinstance(kind, types.IntType) else "number") + _limits(kind)
    if isinstance(kind, types.VarTupleType):
        return f"list of: {_type(kind.item_type)}"
    if isinstance(kind, types.TupleType):
        return f"list of {len(kind.item_types)}: {_type(kind.item_types[0])}"
    if isinstance(kind, types.DictType):
        return f"table of: {_type(kind.value_type)}"
    return NAMED[type(kind)]


def _limits(kind: types.IntType | types.FloatType) -> str:
    texts = [f"{sign} {limit:g}" for sign, limit in ((">", kind.gt), ("≥", kind.ge)) if limit is not None]
    if kind.le is not None and kind.le < LARGE:
        texts.append(f"≤ {kind.le:g}")
    return f" {', '.join(texts)}" if texts else ""


def _default(field: types.Field) -> str:
    if field.required:
        return "required"
    if field.default is msgspec.NODEFAULT or field.default in ("", ()):
        return ""
    return code(msgspec.json.encode(field.default).decode().replace(",", ", "))
