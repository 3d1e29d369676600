"""Parser of Darknet ``.cfg`` files: sections and options, with line numbers.

As in Darknet (``read_cfg`` in ``parser.c``, ``read_option`` in ``option_list.c``), all white space is ignored, and
lines that begin with ``#`` or ``;`` are comments. Unlike Darknet, this parser reports unknown options, invalid numbers
and duplicate options.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from edgekit.errors import RecipeError, nearest

__all__ = ["Section", "read_cfg"]

ALIASES = {
    "avg": "avgpool",
    "conn": "connected",
    "conv": "convolutional",
    "max": "maxpool",
    "network": "net",
    "soft": "softmax",
}
LARGEST = 2**31 - 1


class Option(NamedTuple):
    """One ``key=value`` and its line."""

    value: str
    line: int


@dataclass(frozen=True)
class Section:
    """One section: name without brackets, first line, and options by name.

    Attributes:
        file: the file, for error messages.
        name: Darknet's long name, such as ``convolutional``.
        line: line number, from 1.
        options: the first option of each name, which is the one that Darknet uses.
        repeated: options that are repeated with another value.
    """

    file: Path
    name: str
    line: int
    options: dict[str, Option] = field(default_factory=dict)
    repeated: dict[str, Option] = field(default_factory=dict)

    def error(self, message: str, key: str = "", *, hint: str = "") -> RecipeError:
        """Creates an error for the section, or for one of its options."""
        line = self.options[key].line if key in self.options else self.line
        what = f"[{self.name}]{f' {key}' if key else ''}"
        return RecipeError(f"cfg {self.file}, line {line}: {what}: {message}", hint=hint)

    def text(self, key: str, default: str) -> str:
        """Returns the text of an option, without white space.

        Raises:
            RecipeError: the option is given twice.
        """
        if key in self.repeated:
            again = self.repeated[key]
            raise self.error(
                f"expected one value, got '{self.options[key].value}' and, in line {again.line}, '{again.value}'", key
            )
        return self.options[key].value if key in self.options else default

    def integer(self, key: str, default: int, *, minimum: int = 0) -> int:
        """Returns an option that is an integer.

        Raises:
            RecipeError: the value is not an integer, or is less than ``minimum``.
        """
        return self._integer(key, self.text(key, str(default)), minimum)

    def integers(self, key: str, *, minimum: int = -LARGEST) -> list[int]:
        """Returns an option that is a comma-separated list of integers; empty if it is not set.

        Raises:
            RecipeError: a value is not an integer, or is less than ``minimum``.
        """
        return [self._integer(key, word, minimum) for word in self._words(key)]

    def numbers(self, key: str) -> list[float]:
        """Returns an option that is a comma-separated list of numbers; empty if it is not set.

        Raises:
            RecipeError: a value is not a finite number.
        """
        return [self._number(key, word) for word in self._words(key)]

    def only(self, allowed: Mapping[str, float]) -> None:
        """Checks that each of these options is absent or has its only supported value.

        Raises:
            RecipeError: an option has another value.
        """
        for key, value in allowed.items():
            text = self.text(key, str(value))
            if self._number(key, text) != value:
                raise self.error(f"expected {value:g}, the only supported value, got {text}", key)

    def known(self, keys: Collection[str]) -> None:
        """Checks that the section has no options with other names.

        Raises:
            RecipeError: an option is unknown; the hint suggests similar names.
        """
        for key in self.options:
            if key not in keys:
                raise self.error("unknown option", key, hint=nearest(key, keys))

    def _words(self, key: str) -> list[str]:
        text = self.text(key, "").rstrip(",")  # Darknet accepts a trailing comma
        return text.split(",") if text else []

    def _integer(self, key: str, text: str, minimum: int) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,10}", text):
            raise self.error(f"expected an integer, got '{_short(text)}'", key)
        value = int(text)
        if not minimum <= value <= LARGEST:
            raise self.error(f"expected a number from {minimum} to {LARGEST}, got {text}", key)
        return value

    def _number(self, key: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.error(f"expected a number, got '{_short(text)}'", key)
        return value


def read_cfg(path: Path) -> list[Section]:
    """Parses a file into sections, in file order; the first is ``[net]``.

    Raises:
        RecipeError: the file cannot be read or is not a cfg file; names the line.
    """
    try:
        text = path.read_bytes().decode()
    except OSError as e:
        raise RecipeError(f"cfg {path}: expected a Darknet cfg file, got: {e.strerror or e}") from e
    except ValueError as e:
        raise RecipeError(f"cfg {path}: expected a text file in UTF-8, got another encoding") from e
    sections: list[Section] = []
    for number, raw in enumerate(re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff")), start=1):
        line = re.split("[#;]", re.sub(r"\s", "", raw), maxsplit=1)[0]
        if line.startswith("["):
            sections.append(_section(path, line, number))
        elif line:
            _add_option(path, sections, line, number)
    if not sections:
        raise RecipeError(f"cfg {path}: expected sections such as [net], got none")
    if sections[0].name != "net":
        raise sections[0].error("expected [net] as the first section")
    return sections


def _section(path: Path, line: str, number: int) -> Section:
    if not re.fullmatch(r"\[[\w-]+\]", line):
        raise RecipeError(f"cfg {path}, line {number}: expected a section such as [net], got '{_short(line)}'")
    name = line[1:-1]
    return Section(path, ALIASES.get(name, name), number)


def _add_option(path: Path, sections: list[Section], line: str, number: int) -> None:
    key, _, value = line.partition("=")
    if not key or not value:
        raise RecipeError(f"cfg {path}, line {number}: expected key=value, got '{_short(line)}'")
    if not sections:
        raise RecipeError(f"cfg {path}, line {number}: expected a section such as [net] first, got '{_short(line)}'")
    section = sections[-1]
    if key not in section.options:
        section.options[key] = Option(value, number)
    elif section.options[key].value != value:
        section.repeated[key] = Option(value, number)


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
