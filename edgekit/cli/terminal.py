"""What the command line writes besides results: notes, written files, next commands; with or without colours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["SETTINGS", "Settings", "color", "console", "note", "say_written", "show_next"]


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


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Returns a rich console with the colours of `color`."""
    from rich.console import Console

    plain = color() is False
    return Console(stderr=stderr, width=width, highlight=False, color_system=None if plain else "auto")


def note(text: str) -> None:
    """Writes a note to standard error, unless ``--quiet`` is given."""
    if not SETTINGS.quiet:
        click.echo(f"{click.style('note:', fg='yellow', bold=True)} {text}", err=True)


def say_written(path: Path, *, replaced: bool) -> None:
    """Says which file was written, and whether there was one before, unless ``--quiet`` is given."""
    if not SETTINGS.quiet:
        click.echo(f"{'replaced' if replaced else 'wrote'} {path}", err=True)


def show_next(commands: Sequence[str], title: str = "next:") -> None:
    """Prints the commands that usually follow, unless ``--quiet`` is given."""
    if SETTINGS.quiet or not commands:
        return
    click.echo(click.style(title, dim=True))
    for command in commands:
        click.echo(f"  {command}")
