"""Parses YOLO data set configurations: the YAML subset of a ``data.yaml``, and Darknet's ``obj.data``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

from edgekit.data.formats.text_lines import Line, text_lines
from edgekit.data.splits import SPLIT_NAMES
from edgekit.errors import DataError

__all__ = ["Settings", "names_from_value", "settings_from_data", "settings_from_yaml"]

Value: TypeAlias = "str | list[str] | dict[int, str]"
Settings: TypeAlias = "dict[str, Value]"


class Anchors(NamedTuple):
    """What stands behind the anchors of a file.

    Attributes:
        values: texts, lists and numbered texts.
        maps: maps from texts, for merge keys.
    """

    values: dict[str, Value]
    maps: dict[str, Settings]


_QUOTED = {"'": re.compile(r"'(?:[^']|'')*'"), '"': re.compile(r'"(?:[^"\\]|\\.)*"')}
# An unquoted text ends at a comma or a bracket; it may contain spaces. Comments have been removed before.
_PLAIN = re.compile(r"[^,\[\]{}]+")
_FLOW_NUMBER = re.compile(r"(['\"]?)(\d{1,6})\1\s*:\s*")
_PROPERTIES = re.compile(r"(?:[&!][^\s,\[\]{}]*(?:\s+|$))+")
"""Anchors and tags before a value; tags say nothing of one that is a text, a list or a map."""
_ANCHOR = re.compile(r"&(\S+)")
_ALIAS = re.compile(r"\*([^\s,\[\]{}]+)")
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
_ESCAPES = {
    "0": "\0", "a": "\a", "b": "\b", "t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r", "e": "\x1b",
    "N": "\x85", "_": "\xa0", "L": "\u2028", "P": "\u2029",
}  # fmt: skip
"""YAML 1.2.2, section 5.7; any other character stands for itself."""
_NULLS = ("~", "null", "Null", "NULL")
"""YAML 1.2.2, section 10.2.1.1."""
_MAX_DEPTH = 16
_READ = frozenset({"names", "path", "kpt_shape", *itertools.chain(*SPLIT_NAMES.values())})
_NAMES_HINT = "such as names: [cat, dog]"
_SPACE = re.compile(r"\s*")
_MARK = re.compile(r"['\"]|(?:^|\s)#")
_KEY = re.compile(r"(['\"]?)(<<|[A-Za-z_][\w-]*)\1\s*:(?:\s+(.*))?$")
_NUMBERED = re.compile(r"\s*(['\"]?)(\d{1,6})\1\s*:\s+(.*)$")
_MERGE = re.compile(r"\s*<<\s*:\s+\*(\S+)")
_ITEM = re.compile(r"\s*-\s+(.*)$")


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

    Data sets are described with these; other entries, such as a download script, are ignored. An alias, ``*name``, is
    the value behind the anchor ``&name`` above it, and a merge key, ``<<: *name``, stands for the entries of the map
    behind it. JSON is YAML too.

    Raises:
        DataError: the file cannot be read, or its class names are in an unsupported form; names the line.
    """
    lines = list(_lines(file))
    if lines and lines[0].text.lstrip().startswith("{"):
        return _settings_from_json(lines, file)
    return _settings(lines, Anchors({}, {}), file)


def names_from_value(value: object, file: Path) -> tuple[str, ...]:
    """Returns the class names in the order of their numbers.

    Raises:
        DataError: there are no names, a number is missing, or a name is empty.
    """
    if isinstance(value, dict):
        missing = next((i for i in range(len(value)) if i not in value), None)
        if missing is not None:
            raise DataError(
                f"{file}: names: expected a name for each class from 0 to {max(value)}, got none for {missing}",
                hint="give classes without images a name too, because label files have the numbers",
            )
        value = [value[i] for i in range(len(value))]
    if isinstance(value, str) and value:
        raise DataError(f"{file}: names: expected a list, got '{value[:60]}'", hint=_NAMES_HINT)
    if not isinstance(value, list) or not value:
        raise DataError(f"{file}: names: expected class names, got none", hint=_NAMES_HINT)
    if "" in value:
        raise DataError(f"{file}: names: expected a name for class {value.index('')}, got none")
    return tuple(value)


def _lines(file: Path) -> Iterator[Line]:
    for line in text_lines(file):
        if line.text.strip() == "...":  # the end of the document
            return
        if not line.text.lstrip().startswith(("#", "%")) and line.text.strip() != "---":
            yield line


def _settings(lines: list[Line], anchors: Anchors, file: Path, depth: int = 0) -> Settings:
    """Parses the lines of a map from texts; its keys are at the start of their lines. ``depth`` is that of the map."""
    settings: Settings = {}
    merged: Settings = {}
    block: list[Line] = []
    key, first = "", Line(0, 0, "")
    for line in [*lines, Line(0, 0, "end:")]:
        match = _KEY.match(line.text)
        if match is None:
            block.append(line)
            continue
        if key == "<<":
            merged = _merged(first, anchors, file) | merged
        elif key:
            _take(settings, anchors, key, first, block, file, depth)
        key, first, block = match[2], Line(line.number, 0, match[3] or ""), []
    return merged | settings


def _merged(line: Line, anchors: Anchors, file: Path) -> Settings:
    """Returns the entries behind a merge key; of several maps, the first has precedence."""
    found: Settings = {}
    text = _without_comment(line.text).strip()
    for alias in text.removeprefix("[").removesuffix("]").split(","):
        match = _ALIAS.fullmatch(alias.strip())
        if match is None or match[1] not in anchors.maps:
            raise DataError(f"{file}, line {line.number}: <<: expected the anchor of a map above, got '{text[:60]}'")
        found = anchors.maps[match[1]] | found
    return found


def _settings_from_json(lines: list[Line], file: Path) -> Settings:
    try:
        found = msgspec.json.decode("\n".join(line.text for line in lines), type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError) as e:
        raise DataError(
            f"{file}, line {lines[0].number}: expected JSON, as the file begins with {{, got: {e}",
            hint="write each entry on a line of its own, such as train: images/train",
        ) from e
    settings: Settings = {}
    for key, value in found.items():
        try:
            settings[key] = msgspec.json.decode(value, type=str | list[str] | dict[int, str], strict=False)
        except (msgspec.MsgspecError, RecursionError):
            continue  # an entry of another form describes no data set, and is ignored in YAML too
    return settings


def _take(
    settings: Settings, anchors: Anchors, key: str, first: Line, block: list[Line], file: Path, depth: int
) -> None:
    """Parses the value of a key, from its own line and the lines below."""
    if key in settings:
        raise DataError(f"{file}, line {first.number}: expected '{key}' once, got a duplicate")
    name, own = _without_anchor(first.text)
    value = _value(anchors, key, Line(first.number, 0, own), block, file)
    if value is not None and not _is_null(own):
        settings[key] = value
    if name and value is not None:
        anchors.values[name] = value
    elif name and block and depth < _MAX_DEPTH:
        indent = len(block[0].text) - len(block[0].text.lstrip())
        inner = [Line(line.number, line.offset, line.text[indent:]) for line in block]
        anchors.maps[name] = _settings(inner, anchors, file, depth + 1)


def _value(anchors: Anchors, key: str, first: Line, block: list[Line], file: Path) -> Value | None:
    """Returns the value of a key; None if it is of another form, which describes no data set."""
    text = " ".join([first.text, *(line.text for line in block)]).strip()
    own = _without_comment(first.text).strip()
    if alias := _ALIAS.fullmatch(own):
        return anchors.values.get(alias[1], own)
    if text.startswith(("[", "{")):
        joined = " ".join(map(_without_comment, [first.text, *(each.text for each in block)]))
        try:
            return _flow(file, first.number, joined, anchors)
        except DataError:
            if key in _READ:
                raise
            return None
    if not block:
        return _scalar(first.text, anchors)
    if not own and block[0].text.lstrip().startswith("- "):
        return [_scalar(_match(_ITEM, line, "- NAME", file)[1], anchors) for line in block]
    merge = _MERGE.match(block[0].text)
    if not own and (_NUMBERED.match(block[0].text) or (merge and merge[1] in anchors.values)):
        return _numbered(block, file, anchors)
    if key == "names":
        raise DataError(f"{file}, line {first.number}: names: expected a list of names, got '{text[:60]}'")
    return None


def _is_null(text: str) -> bool:
    """Whether a value without quotes stands for none, as programs write ``test: null``."""
    return _without_comment(text).strip() in _NULLS


def _without_anchor(text: str) -> tuple[str, str]:
    """Returns the anchor before a value, empty if there is none, and the value without it."""
    properties = _PROPERTIES.match(text)
    if properties is None:
        return "", text
    anchor = _ANCHOR.search(properties[0])
    return anchor[1] if anchor else "", text[properties.end() :]


def _numbered(block: list[Line], file: Path, anchors: Anchors) -> dict[int, str]:
    names: dict[int, str] = {}
    merged: dict[int, str] = {}
    for line in block:
        if merge := _MERGE.match(line.text):
            behind = anchors.values.get(merge[1])
            if not isinstance(behind, dict):
                raise DataError(f"{file}, line {line.number}: <<: expected the anchor of a map above, got *{merge[1]}")
            merged = behind | merged
            continue
        match = _match(_NUMBERED, line, "NUMBER: NAME", file)
        _add(names, match[2], _scalar(match[3], anchors), f"{file}, line {line.number}")
    return merged | names


def _add(names: dict[int, str], number: str, name: str, where: str) -> None:
    if int(number) in names:
        raise DataError(f"{where}: expected a unique number, got a duplicate: {number}")
    names[int(number)] = name


def _match(pattern: re.Pattern[str], line: Line, expected: str, file: Path) -> re.Match[str]:
    match = pattern.match(line.text)
    if match is None:
        raise DataError(f"{file}, line {line.number}: expected {expected}, got '{line.text.strip()[:60]}'")
    return match


def _flow(file: Path, line: int, text: str, anchors: Anchors) -> list[str] | dict[int, str]:
    """Parses ``[cat, dog]`` or ``{0: cat, 1: dog}``."""
    inner, where = text.strip(), f"{file}, line {line}"
    numbered, close = inner[0] == "{", {"[": "]", "{": "}"}[inner[0]]
    if not inner.endswith(close):
        raise DataError(
            f"{where}: expected a {'map' if numbered else 'list'} that ends with {close}, got '{inner[:60]}'"
        )
    inner, items, names, at = inner[1:-1].strip(), list[str](), dict[int, str](), 0
    while at < len(inner):
        number = _FLOW_NUMBER.match(inner, at) if numbered else None
        start = number.end() if number else at
        match = _QUOTED.get(inner[start : start + 1], _PLAIN).match(inner, start)
        end = _after_space(inner, match.end()) if match else at
        if match is None or (end < len(inner) and inner[end] != ",") or (numbered and number is None):
            expected = "numbers, names and commas" if numbered else "names and commas"
            raise DataError(f"{where}: expected {expected}, got '{inner[at : at + 60]}'")
        if number:
            _add(names, number[2], _scalar(match[0], anchors), where)
        else:
            items.append(_scalar(match[0], anchors))
        at = _after_space(inner, end + 1)
    return names if numbered else items


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


def _scalar(text: str, anchors: Anchors) -> str:
    """Returns a text without quotes, comment and anchor; an alias as the text behind its anchor."""
    name, text = _without_anchor(_without_comment(text).strip())
    alias = _ALIAS.fullmatch(text)
    found = anchors.values.get(alias[1]) if alias else None
    scalar = found if isinstance(found, str) else _unquoted(text)
    if name:
        anchors.values[name] = scalar
    return scalar


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return _ESCAPE.sub(_unescaped, text[1:-1])
    return text


def _unescaped(match: re.Match[str]) -> str:
    digits = match[1] or match[2] or match[3]
    if not digits:
        return _ESCAPES.get(match[4], match[4])
    number = int(digits, 16)
    return chr(number) if number < 0xD800 or 0xDFFF < number <= 0x10FFFF else "\ufffd"
