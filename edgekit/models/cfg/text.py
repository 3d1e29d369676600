"""The text of Darknet's ``.cfg`` files: sections in brackets, options below them, each with the line it stands on.

As Darknet reads it (``read_cfg`` in ``parser.c``, ``read_option`` in ``option_list.c``): white space means nothing
wherever it stands, and lines that begin with ``#`` or ``;`` are comments. Unlike Darknet's own reader this one lets
nothing pass in silence: options it does not know, numbers that are none, and an option that is given twice.
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
    """One section: its name without brackets, the line it begins on, its options by name.

    Attributes:
        file: the file, for messages.
        name: in Darknet's long form, as ``convolutional``.
        line: counted from 1.
        options: the first of each name, which is the one that Darknet takes.
        repeated: options that are given again with another value.
    """

    file: Path
    name: str
    line: int
    options: dict[str, Option] = field(default_factory=dict)
    repeated: dict[str, Option] = field(default_factory=dict)

    def error(self, message: str, key: str = "", *, hint: str = "") -> RecipeError:
        """An error at the section, or at one of its options."""
        line = self.options[key].line if key in self.options else self.line
        what = f"[{self.name}]{f' {key}' if key else ''}"
        return RecipeError(f"cfg {self.file}, line {line}: {what}: {message}", hint=hint)

    def text(self, key: str, default: str) -> str:
        """An option as it is written, without white space.

        Raises:
            RecipeError: it is given twice.
        """
        if key in self.repeated:
            again = self.repeated[key]
            raise self.error(
                f"expected it once, got '{self.options[key].value}' and, in line {again.line}, '{again.value}'", key
            )
        return self.options[key].value if key in self.options else default

    def integer(self, key: str, default: int, *, least: int = 0) -> int:
        """An option that is a whole number.

        Raises:
            RecipeError: it is not, or is less than ``least``.
        """
        return self._integer(key, self.text(key, str(default)), least)

    def integers(self, key: str, *, least: int = -LARGEST) -> list[int]:
        """An option that is a list of whole numbers with commas between them; empty where it is not given.

        Raises:
            RecipeError: one of them is no whole number, or less than ``least``.
        """
        return [self._integer(key, word, least) for word in self._words(key)]

    def numbers(self, key: str) -> list[float]:
        """An option that is a list of numbers with commas between them; empty where it is not given.

        Raises:
            RecipeError: one of them is no finite number.
        """
        return [self._number(key, word) for word in self._words(key)]

    def only(self, allowed: Mapping[str, float]) -> None:
        """Raises unless each of these options is not given or has the one value that is taken.

        Raises:
            RecipeError: one of them has another value.
        """
        for key, value in allowed.items():
            text = self.text(key, str(value))
            if self._number(key, text) != value:
                raise self.error(f"only {value:g} is taken, got {text}", key)

    def known(self, keys: Collection[str]) -> None:
        """Raises if there is an option of another name.

        Raises:
            RecipeError: names the option and what it may have been meant to be.
        """
        for key in self.options:
            if key not in keys:
                raise self.error("an option that is not known", key, hint=nearest(key, keys))

    def _words(self, key: str) -> list[str]:
        text = self.text(key, "").rstrip(",")  # Darknet does not mind a comma at the end
        return text.split(",") if text else []

    def _integer(self, key: str, text: str, least: int) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,10}", text):
            raise self.error(f"expected a whole number, got '{_short(text)}'", key)
        value = int(text)
        if not least <= value <= LARGEST:
            raise self.error(f"expected a number from {least} to {LARGEST}, got {text}", key)
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
    """The sections of a file, in its order, the first of which is ``[net]``.

    Raises:
        RecipeError: the file cannot be read, or is not of that form: names the line.
    """
    try:
        text = path.read_bytes().decode()
    except OSError as e:
        raise RecipeError(f"cfg {path}: expected a Darknet cfg file, got: {e.strerror or e}") from e
    except ValueError as e:
        raise RecipeError(f"cfg {path}: expected a text file in UTF-8, got something else") from e
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
