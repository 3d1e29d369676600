"""A click group that imports its commands on use, so that ``--help`` is fast."""

from __future__ import annotations

import importlib
from typing import Any, cast

import click
from click.shell_completion import CompletionItem

from edgekit.cli.options.common import add_common_options
from edgekit.errors import UsageError, nearest

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """A group whose commands are given by name, each as ``module:attribute`` and its short help."""

    def __init__(self, *args: Any, commands_on_use: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands_on_use = commands_on_use

    def list_commands(self, ctx: click.Context) -> list[str]:
        # In the order in which they are usually used, not alphabetical.
        return list(self.commands_on_use)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands_on_use:
            return None
        module, _, attribute = self.commands_on_use[cmd_name][0].partition(":")
        return add_common_options(cast(click.Command, getattr(importlib.import_module(module), attribute)))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands_on_use and not args[0].startswith("-"):
            raise UsageError(f"no command '{args[0]}'", hint=nearest(args[0], self.commands_on_use))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # Click's own method would import every command for its short help.
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self.commands_on_use.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # Likewise.
        names = [
            CompletionItem(name, help=summary)
            for name, (_, summary) in self.commands_on_use.items()
            if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]
