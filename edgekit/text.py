"""Texts from outside, such as labels and paths: made safe for terminals, pages, JSON and shell commands.

A path may hold any byte: Python represents bytes that are not UTF-8 by halves of surrogate pairs (PEP 383), which can
be neither printed nor encoded.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import Any

_MAX_SHOWN = 100
_MAX_BITS = 300

__all__ = [
    "escaped",
    "html_text",
    "is_one_line",
    "json_bytes",
    "json_value",
    "one_line",
    "shell_quoted",
    "shell_words",
    "shown",
    "some_of",
    "visible",
]

# Control characters but for line feed and tab; characters that reorder text (Unicode TR 36, 3.5: bidirectional
# overrides); line separators; halves of surrogate pairs.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNQUOTABLE = re.compile(r"[\n\t]|" + _UNSAFE.pattern)


def visible(text: str) -> str:
    r"""Returns a text whose control characters are written as escapes, such as ``\x1b`` and ``\u202e``.

    The escapes are those of JSON from U+007F on, so that JSON keeps its meaning.
    """
    return _UNSAFE.sub(lambda found: escaped(found[0]), text)


def is_one_line(text: str) -> bool:
    """Whether a text has no control characters at all, no line feeds and tabs either."""
    return not _UNQUOTABLE.search(text)


def one_line(text: str) -> str:
    r"""Like `visible`, for names: line feeds and tabs become escapes too, ``\n`` and ``\t``."""
    if is_one_line(text):
        return text
    return visible(text.replace("\n", r"\n").replace("\t", r"\t"))


def escaped(character: str) -> str:
    """Returns the escape of a character."""
    number = ord(character)
    if number < 0x7F:
        return f"\\x{number:02x}"
    if number < 0x10000:
        return f"\\u{number:04x}"
    high, low = divmod(number - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def html_text(text: str) -> str:
    """Returns a text for an HTML or SVG page, without markup and control characters."""
    import html

    return html.escape(visible(text))


def some_of(names: Iterable[str], limit: int = 8) -> str:
    """Returns the first ``limit`` names, and how many more there are: ``a, b and 3 more``."""
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def shown(value: object) -> str:
    """Returns a value as a message shows it: as in Python, or only its type if that is long, as of a tensor."""
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:  # Python refuses to write one of 4,300 digits
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    named = type(value).__name__
    return text if len(text) <= _MAX_SHOWN and "\n" not in text else f"an object of the type {named}"


def shell_words(words: Iterable[str]) -> str:
    """Returns a command line that a shell splits into ``words``."""
    return " ".join(map(shell_quoted, words))


def shell_quoted(word: str) -> str:
    """Returns a word for a shell; one with bytes that cannot be shown in POSIX's form ``$'...'`` (issue 8, 2.2.4)."""
    if not _UNQUOTABLE.search(word):
        return shlex.quote(word)
    shown = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{_UNQUOTABLE.sub(lambda found: _bytes(found[0]), shown)}'"


def _bytes(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def json_bytes(value: Any, *, indent: int = 0) -> bytes:
    """Encodes a value as JSON; what is not UTF-8 in its texts is written as escapes.

    Args:
        value: anything that msgspec encodes.
        indent: spaces a level; 0: on one line.
    """
    import msgspec  # most commands print no JSON, and start faster without it

    try:
        content = msgspec.json.encode(value)
    except UnicodeEncodeError:
        content = msgspec.json.encode(_as_utf8(msgspec.to_builtins(value)))
    return msgspec.json.format(content, indent=indent) if indent else content


def json_value(content: bytes, type: Any = Any) -> Any:
    """Decodes JSON from a file that anybody may have written.

    Raises:
        msgspec.DecodeError: it is not JSON, not UTF-8, nested too deep, or does not have the type.
    """
    import msgspec

    try:
        return msgspec.json.decode(content, type=type)
    except RecursionError as e:
        raise msgspec.DecodeError("JSON is nested too deep") from e
    except UnicodeDecodeError as e:
        raise msgspec.DecodeError(f"JSON is not UTF-8: {e.reason} at byte {e.start}") from e


def _as_utf8(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_as_utf8(key): _as_utf8(each) for key, each in value.items()}
    return [_as_utf8(each) for each in value] if isinstance(value, list) else value
