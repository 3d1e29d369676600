"""Click options made from the fields of config structs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import click

from edgekit.cli.options.completion import complete_data, complete_targets, complete_weights
from edgekit.cli.options.environment import write_environment
from edgekit.cli.options.hinted import Choice
from edgekit.cli.options.paths import OutputPlace
from edgekit.engine.table import all_options
from edgekit.option import Option, option_fields

__all__ = ["GroupedCommand", "HeadedOption", "backend_options", "exclusive_flags", "options_from"]

Command: TypeAlias = "Callable[..., Any]"

COMPLETIONS = {"target": complete_targets, "weights": complete_weights, "calib": complete_data}
"""Completion in the shell, by the option's name."""


class HeadedOption(click.Option):
    """An option with a heading in ``--help``, and with hidden aliases."""

    def __init__(self, *args: Any, heading: str = "", aliases: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heading = heading
        self.aliases = aliases

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        spellings = self.opts
        self.opts = [spelling for spelling in spellings if spelling not in self.aliases]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = spellings


class GroupedCommand(click.Command):
    """A command whose ``--help`` shows options under the headings of their config structs."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        headings: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                headings.setdefault(getattr(parameter, "heading", ""), []).append(record)
        others = headings.pop("", [])
        for heading, records in [*headings.items(), ("Other options", others)]:
            with formatter.section(heading):
                formatter.write_dl(records)
        write_environment(formatter)


def exclusive_flags(name: str, choices: Mapping[str, str], heading: str = "") -> Iterable[Callable[[Command], Command]]:
    """Yields decorators that add a flag for each choice, such as ``--int8`` and ``--fp16``; only one may be given.

    The command gets the choice as ``name``, if one is given.

    Args:
        name: the parameter.
        choices: help by choice.
        heading: shown above the flags in ``--help``.
    """
    for choice, help in choices.items():
        yield click.option(
            f"--{choice}",
            f"{name}_{choice}",
            cls=HeadedOption,
            heading=heading,
            is_flag=True,
            expose_value=False,
            callback=_chosen(name, choice),
            help=help,
        )


def _chosen(name: str, choice: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(ctx: click.Context, parameter: click.Parameter, given: bool) -> None:
        if not given:
            return
        other = ctx.params.get(name)
        if other is not None:
            raise click.UsageError(f"expected one {name}, got --{other} and --{choice}", ctx)
        ctx.params[name] = choice

    return callback


def options_from(kind: type[Any], heading: str = "", *, only: Sequence[str] = ()) -> Callable[[Command], Command]:
    """A decorator that adds the options of a config struct to a command.

    Args:
        kind: the struct's class.
        heading: shown above the options in ``--help``.
        only: names of the fields to add; all if empty.
    """

    def add(command: Command) -> Command:
        declared = [
            made
            for field, found in option_fields(kind)
            if not only or field.name in only
            for made in _click_options(found, field.default, heading)
        ]
        return functools.reduce(lambda made, decorate: decorate(made), reversed(declared), command)

    return add


def backend_options(command: Command) -> Command:
    """Adds the options of all backends; passes those that were given to the command as a dictionary, ``engine``."""
    structs = list(all_options())
    defaults = {field.name: field.default for struct in structs for field, _ in option_fields(struct)}

    @functools.wraps(command)
    def with_engine(*args: Any, **options: Any) -> Any:
        given = {name: options.pop(name) for name in defaults}
        engine = {name: value for name, value in given.items() if value not in (None, defaults[name])}
        return command(*args, engine=engine, **options)

    made: Command = with_engine
    for struct in reversed(structs):
        made = options_from(struct, getattr(struct, "title", ""))(made)
    return made


def _click_options(found: Option, default: Any, heading: str) -> Iterable[Callable[[Command], Command]]:
    heading = found.heading or heading
    if found.kind == "choice":
        yield from exclusive_flags(found.name, found.choices or {}, heading)
        return
    spelling = f"{found.flag}/--no-{found.flag.removeprefix('--')}" if found.kind == "switch" else found.flag
    names = [*([found.short] if found.short else []), spelling, *found.aliases, found.name]
    settings = _settings(found, default)
    help = f"{found.help}  [default: {found.shown_default}]" if found.shown_default else found.help
    yield click.option(*names, cls=HeadedOption, heading=heading, aliases=found.aliases, help=help, **settings)


def _settings(found: Option, default: Any) -> dict[str, Any]:
    if found.kind in ("flag", "switch"):
        return {"is_flag": True, "default": default}
    settings: dict[str, Any] = {"metavar": found.metavar, "multiple": found.repeated}
    settings["show_default"] = default is not None and not found.repeated
    if found.name in COMPLETIONS:
        settings["shell_complete"] = COMPLETIONS[found.name]
    if found.parse is not None:
        settings["callback"] = _callback(found.parse, repeated=found.repeated)
    if found.kind == "integer":
        kind = int if found.minimum is None else click.IntRange(min=found.minimum, max=found.maximum)
        settings |= {"type": kind, "default": default}
    elif found.kind == "path":
        settings["type"] = click.Path(path_type=Path)
    elif found.kind == "place":
        settings["type"] = OutputPlace()
    elif found.choices:
        settings["type"] = Choice(list(found.choices))
        settings |= {} if default is None else {"default": default}  # as above
    return settings


def _callback(parse: Callable[[Any], Any], *, repeated: bool) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def convert(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value is None:
            return None
        try:
            return parse(value)
        except ValueError as e:
            raise click.BadParameter(str(e)) from e

    return convert
