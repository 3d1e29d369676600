"""Everything that a command writes: text for the terminal, JSON, and files.

Texts from files (labels, names of layers, notes, paths) reach the terminal only through `echo` and `terminal`, which
show control characters instead of sending them, and take no text for markup.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from edgekit.errors import UsageError
from edgekit.storage import write_atomic

if TYPE_CHECKING:
    from edgekit.cli.console import SafeConsole

__all__ = ["JsonOutput", "echo", "escaped", "json_options", "terminal", "visible", "write_file"]

# Control characters but for line feed and tab; characters that reorder text (Unicode TR 36, 3.5: bidirectional
# overrides); line separators; halves of surrogate pairs, by which Python represents bytes that are not UTF-8.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Returns a text whose control characters are written as escapes, such as ``\x1b`` and ``\u202e``.

    The escapes are those of JSON from U+0080 on, so that JSON keeps its meaning.
    """
    return _UNSAFE.sub(lambda found: escaped(found[0]), text)


def escaped(character: str) -> str:
    """Returns the escape of a character."""
    number = ord(character)
    if number < 0x7F:
        return f"\\x{number:02x}"
    if number < 0x10000:
        return f"\\u{number:04x}"
    high, low = divmod(number - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def echo(text: str = "", *, title: str = "", color: str = "", dim: bool = False, err: bool = False) -> None:
    """Prints a line.

    Args:
        text: the text; control characters are shown as escapes.
        title: printed before the text in bold, as in ``error:``.
        color: color of the title.
        dim: print the text dim.
        err: print to standard error.
    """
    styled = visible(text)
    if dim:
        styled = click.style(styled, dim=True)
    start = f"{click.style(title, fg=color or None, bold=True)} " if title else ""
    click.echo(start + styled, err=err)


def terminal(*, stderr: bool = False, width: int | None = None) -> SafeConsole:
    """Returns a console for rich's tables and texts that takes no text for markup, emoji codes or escape sequences."""
    from edgekit.cli.console import SafeConsole  # rich takes longer to import than some commands to run

    return SafeConsole(visible, stderr=stderr, width=width)


def write_file(path: Path, content: bytes) -> None:
    """Writes ``content`` to ``path``; creates missing folders.

    Raises:
        UsageError: the file cannot be written: no permission, no space, a folder of that name.
    """
    try:
        write_atomic(path, content)
    except OSError as e:
        raise UsageError(f"{path}: cannot be written: {e.strerror}", hint="choose another file") from e


class JsonOutput(NamedTuple):
    """Where a command writes its result as JSON.

    Attributes:
        printed: to standard output, where nothing else may be written then.
        file: to this file.
    """

    printed: bool
    file: Path | None

    @property
    def wanted(self) -> bool:
        """Whether JSON is written at all."""
        return self.printed or self.file is not None

    def write(self, content: bytes | str) -> None:
        """Writes JSON where it was asked for, and says on standard error which file was written."""
        text = content.decode() if isinstance(content, bytes) else content
        text = text.rstrip("\n") + "\n"
        if self.file is not None:
            write_file(self.file, text.encode())
            echo(f"wrote {self.file}", err=True)
        if self.printed:
            click.echo(visible(text), nl=False)


def json_options(content: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds ``--json`` and ``--json-file`` to a command; it gets a `JsonOutput` as ``json``.

    Args:
        content: what the JSON is, for ``--help``, as in "the report".
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_json(*args: Any, as_json: bool, json_file: Path | None, **options: Any) -> Any:
            return command(*args, json=JsonOutput(as_json, json_file), **options)

        print_help = f"Print {content} as JSON, and nothing else, to standard output."
        write_help = f"Write {content} as JSON to F."
        decorated = click.option(
            "--json-file", type=click.Path(path_type=Path, dir_okay=False), metavar="F", help=write_help
        )(with_json)
        return click.option("--json", "as_json", is_flag=True, help=print_help)(decorated)

    return add
