"""The one place through which text reaches the terminal: lines, tables, notes, next commands; with or without colours.

Texts from files (labels, names of layers, notes, paths) are shown with their control characters as escapes, and are
never taken for markup.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.text import visible

if TYPE_CHECKING:
    from edgekit.cli.console import SafeConsole

__all__ = ["SETTINGS", "Settings", "color", "console", "echo", "note", "say_written", "show_next"]


@dataclass
class Settings:
    """Options that every command has.

    Attributes:
        verbose: show the traceback of an error.
        quiet: show results and errors only.
    """

    verbose: bool = False
    quiet: bool = False


SETTINGS = Settings()
"""Of the command that runs; `edgekit.cli.main.main` sets them back at the start."""


def color() -> bool | None:
    """Whether to write colours: False with ``NO_COLOR`` (no-color.org) or ``TERM=dumb``; None: on a terminal only."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def echo(text: str = "", *, title: str = "", title_color: str = "", dim: bool = False, err: bool = False) -> None:
    """Prints a line.

    Args:
        text: the text; control characters are shown as escapes.
        title: printed before the text in bold, as in ``error:``; further lines are indented, so that a text from a
            file cannot look like a message of its own.
        title_color: color of the title.
        dim: print the text dim.
        err: print to standard error.
    """
    shown = visible(text)
    if dim:
        shown = click.style(shown, dim=True)
    if title:
        shown = shown.replace("\n", "\n  ")
    start = f"{click.style(title, fg=title_color or None, bold=True)} " if title else ""
    # Without a file, click writes UTF-8 to streams in ASCII.
    click.echo(start + shown, file=sys.stderr if err else sys.stdout, color=color())


def console(*, stderr: bool = False, piped_columns: int | None = None) -> SafeConsole:
    """Returns a console for rich's tables and texts, with the colours of `color`.

    Args:
        stderr: print to standard error.
        piped_columns: width of the output without a terminal, unless ``COLUMNS`` is set; None: rich's default.
    """
    from edgekit.cli.console import SafeConsole  # rich takes longer to import than some commands to run

    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    return SafeConsole(stderr=stderr, width=None if has_width else piped_columns, plain=color() is False)


def note(text: str) -> None:
    """Writes a note to standard error, unless ``--quiet`` is given."""
    if not SETTINGS.quiet:
        echo(text, title="note:", title_color="yellow", err=True)


def say_written(path: Path, *, replaced: bool) -> None:
    """Says which file was written, and whether there was one before, unless ``--quiet`` is given."""
    if not SETTINGS.quiet:
        echo(f"{'replaced' if replaced else 'wrote'} {path}", err=True)


def show_next(commands: Sequence[str], title: str = "next:") -> None:
    """Prints the commands that usually follow, unless ``--quiet`` is given."""
    if SETTINGS.quiet or not commands:
        return
    echo(title, dim=True)
    for command in commands:
        echo(f"  {command}")
