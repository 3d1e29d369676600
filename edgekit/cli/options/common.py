"""Options that every command has, before or after its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from edgekit.cli.options.outputs import with_outputs_checked
from edgekit.cli.terminal import SETTINGS

__all__ = ["add_common_options", "common_options"]


def common_options() -> list[click.Option]:
    """Returns ``-v`` and ``-q``, which change `SETTINGS`."""
    return [
        click.Option(
            ["-v", "--verbose"],
            is_flag=True,
            expose_value=False,
            callback=_set("verbose"),
            help="Show the traceback of an error.",
        ),
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            expose_value=False,
            callback=_set("quiet"),
            help="Show results and errors only: no progress, no notes.",
        ),
    ]


def _set(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value:
            setattr(SETTINGS, name, True)

    return callback


def add_common_options(command: click.Command) -> click.Command:
    """Adds the options to a command and its subcommands, if they do not have them yet, and the check of outputs.

    Returns:
        The command.
    """
    if not any("--quiet" in parameter.opts for parameter in command.params):
        command.params += common_options()
        if command.callback is not None and not isinstance(command, click.Group):
            command.callback = with_outputs_checked(command.callback)
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        add_common_options(inner)
    return command
