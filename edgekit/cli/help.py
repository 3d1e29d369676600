"""``edgekit help`` and ``edgekit version``: the same as the options ``--help`` and ``--version``."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

import edgekit
from edgekit.cli.terminal import echo

__all__ = ["VERSION", "help_of_command", "version"]

VERSION = "edgekit %(version)s"


def _complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    root = ctx.find_root()
    assert isinstance(root.command, click.Group)
    return [CompletionItem(name) for name in root.command.list_commands(root) if name.startswith(incomplete)]


@click.command("help", short_help="Show the help of a command.")
@click.argument("command", nargs=-1, shell_complete=_complete)
@click.pass_context
def help_of_command(ctx: click.Context, command: tuple[str, ...]) -> None:
    """Show the help of COMMAND, such as build or export triton; without COMMAND, that of edgekit."""
    inner = ctx.find_root()
    for name in command:
        if not isinstance(inner.command, click.Group):
            raise click.UsageError(f"'{inner.command_path}' has no command '{name}'", ctx)
        _, found, _ = inner.command.resolve_command(inner, [name])
        assert found is not None  # `resolve_command` raises for a name that does not exist
        inner = click.Context(found, parent=inner, info_name=name)
    echo(inner.get_help())


@click.command("version", short_help="Show the version of EdgeKit.")
def version() -> None:
    """Show the version of EdgeKit."""
    echo(VERSION % {"version": edgekit.__version__})
