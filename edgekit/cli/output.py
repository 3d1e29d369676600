"""Everything that a command writes: text for the terminal, JSON, and files.

Texts from files (labels, names of layers, notes, paths) reach the terminal only through `echo` and `terminal`, which
show control characters instead of sending them, and take no text for markup.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from edgekit.errors import UsageError
from edgekit.storage import write_atomic
from edgekit.text import visible

if TYPE_CHECKING:
    from edgekit.cli.console import SafeConsole

__all__ = ["JsonOutput", "echo", "json_options", "terminal", "write_file"]


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
    # Without a file, click writes UTF-8 to streams in ASCII.
    click.echo(start + styled, file=sys.stderr if err else sys.stdout)


def terminal(*, stderr: bool = False, width: int | None = None) -> SafeConsole:
    """Returns a console for rich's tables and texts that takes no text for markup, emoji codes or escape sequences."""
    from edgekit.cli.console import SafeConsole  # rich takes longer to import than some commands to run

    return SafeConsole(stderr=stderr, width=width)


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
            click.echo(visible(text), nl=False, file=sys.stdout)


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
