"""Parses YOLO data set configurations: the YAML subset of a ``data.yaml``, and Darknet's ``obj.data``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from edgekit.data.formats.text_lines import Line, text_lines
from edgekit.errors import DataError

__all__ = ["Settings", "names_from_value", "settings_from_data", "settings_from_yaml"]

Settings: TypeAlias = "dict[str, str | list[str] | dict[int, str]]"

_QUOTED = {"'": re.compile(r"'(?:[^']|'')*'"), '"': re.compile(r'"(?:[^"\\]|\\.)*"')}
# An unquoted text ends at a comma, a bracket or a comment; it may contain spaces.
_PLAIN = re.compile(r"[^,\[\]{}#]+")
_SPACE = re.compile(r"\s*")
_MARK = re.compile(r"['\"]|(?:^|\s)#")
_KEY = re.compile(r"([A-Za-z_][\w-]*)\s*:(?:\s+(.*))?$")
_NUMBERED = re.compile(r"(\d{1,6})\s*:\s+(.*)$")


def settings_from_data(file: Path) -> Settings:
    """Reads the ``key = value`` lines of a Darknet ``obj.data`` file.

    Raises:
        DataError: the file cannot be read, or a line has another form.
    """
    settings: Settings = {}
    for line in text_lines(file):
        key, equals, value = line.text.partition("=")
        if line.text.lstrip().startswith("#"):
            continue
        if not equals:
            raise DataError(f"{file}, line {line.number}: expected key = value, got '{line.text.strip()[:60]}'")
        settings[key.strip()] = value.strip()
    return settings


def settings_from_yaml(file: Path) -> Settings:
    """Reads the top-level strings, lists of strings and numbered strings of a YAML file.

    Data sets are described with these; other entries, such as a download script, are ignored.

    Raises:
        DataError: the file cannot be read, or its class names are in an unsupported form; names the line.
    """
    settings: Settings = {}
    block: list[Line] = []
    key, first = "", Line(0, 0, "")
    for line in [*_lines(file), Line(0, 0, "end:")]:
        match = _KEY.match(line.text)
        if match is None:
            block.append(line)
            continue
        if key:
            _take(settings, key, first, block, file)
        key, first, block = match[1], Line(line.number, 0, match[2] or ""), []
    return settings


def names_from_value(value: object, file: Path) -> tuple[str, ...]:
    """Returns the class names in the order of their numbers.

    Raises:
        DataError: there are no names, a number is missing, or a name is empty.
    """
    if isinstance(value, dict):
        missing = next((i for i in range(len(value)) if i not in value), None)
        if missing is not None:
            raise DataError(f"{file}: names: expected 0 to {len(value) - 1}, got none for {missing}")
        value = [value[i] for i in range(len(value))]
    if not isinstance(value, list) or not value:
        raise DataError(f"{file}: names: expected class names, got none", hint="such as names: [cat, dog]")
    if "" in value:
        raise DataError(f"{file}: names: expected a name for class {value.index('')}, got none")
    return tuple(value)


def _lines(file: Path) -> Iterator[Line]:
    for line in text_lines(file):
        if not line.text.lstrip().startswith("#") and line.text.strip() != "---":
            yield line


def _take(settings: Settings, key: str, first: Line, block: list[Line], file: Path) -> None:
    """Parses the value of a key, from its own line and the lines below."""
    if key in settings:
        raise DataError(f"{file}, line {first.number}: expected '{key}' once, got a duplicate")
    text = " ".join([first.text, *(line.text for line in block)]).strip()
    if text.startswith("["):
        settings[key] = _flow_list(
            file, first.number, " ".join(map(_without_comment, [first.text, *(each.text for each in block)]))
        )
    elif not block:
        settings[key] = _scalar(first.text)
    elif _scalar(first.text) == "" and block[0].text.lstrip().startswith("- "):
        settings[key] = [_scalar(_match(r"\s*-\s+(.*)$", line, "- NAME", file)[1]) for line in block]
    elif _scalar(first.text) == "" and _NUMBERED.match(block[0].text.strip()):
        settings[key] = _numbered(block, file)
    elif key == "names":
        raise DataError(f"{file}, line {first.number}: names: expected a list of names, got '{text[:60]}'")


def _numbered(block: list[Line], file: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    for line in block:
        match = _match(r"\s*(\d{1,6})\s*:\s+(.*)$", line, "NUMBER: NAME", file)
        if int(match[1]) in names:
            raise DataError(f"{file}, line {line.number}: expected a unique number, got a duplicate: {match[1]}")
        names[int(match[1])] = _scalar(match[2])
    return names


def _match(pattern: str, line: Line, expected: str, file: Path) -> re.Match[str]:
    match = re.match(pattern, line.text)
    if match is None:
        raise DataError(f"{file}, line {line.number}: expected {expected}, got '{line.text.strip()[:60]}'")
    return match


def _flow_list(file: Path, line: int, text: str) -> list[str]:
    inner = text.strip()
    if not inner.endswith("]"):
        raise DataError(f"{file}, line {line}: expected a list that ends with ], got '{inner[:60]}'")
    inner, items, at = inner[1:-1].strip(), list[str](), 0
    while at < len(inner):
        match = _QUOTED.get(inner[at], _PLAIN).match(inner, at)
        end = _after_space(inner, match.end()) if match else at
        if match is None or (end < len(inner) and inner[end] != ","):
            raise DataError(f"{file}, line {line}: expected names and commas, got '{inner[at : at + 60]}'")
        items.append(_scalar(match[0]))
        at = _after_space(inner, end + 1)
    return items


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _without_comment(text: str) -> str:
    at = 0
    unclosed: set[str] = set()  # quotes that nothing behind them closes, so that they are looked for once only
    while mark := _MARK.search(text, at):
        if mark[0].endswith("#"):
            return text[: mark.start()]
        quoted = None if mark[0] in unclosed else _QUOTED[mark[0]].match(text, mark.start())
        if quoted is None:
            unclosed.add(mark[0])
        at = quoted.end() if quoted else mark.end()
    return text


def _scalar(text: str) -> str:
    text = _without_comment(text).strip()
    if len(text) >= 2 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text
