"""The reference of commands, from click's own objects."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from edgekit.cli.main import cli
from edgekit.cli.options.common import common_options
from tools.docs.markdown import code, note_on_origin, table

__all__ = ["commands_of", "markdown_from_commands"]

INTRODUCTION = """\
# Commands

{note}

`edgekit --help` lists the commands; `edgekit COMMAND --help` or `edgekit help COMMAND` shows one. `edgekit --version`
or `edgekit version` prints the version. Every error has a message, and a hint where something can be done about it.

These options go before or after the name of any command:

{common}

Colours are left out if the output is not a terminal, with `NO_COLOR=1`, and with `TERM=dumb`.

A file that exists is replaced with a message, and only by a file of its kind; so is an engine by one of the same model.
An engine of another model, trained weights, and the source of `edgekit run --save` are replaced with `--force` only.

## Completion

The shell completes commands, options, models, targets, data sets, weights, boards and files after one of these lines,
in `~/.bashrc`, `~/.zshrc` and `~/.config/fish/completions/edgekit.fish`:

```bash
eval "$(_EDGEKIT_COMPLETE=bash_source edgekit)"  # bash, from 4.4 on
eval "$(_EDGEKIT_COMPLETE=zsh_source edgekit)"  # zsh
_EDGEKIT_COMPLETE=fish_source edgekit | source  # fish
```

## Exit codes

| exit code | meaning |
| --- | --- |
| 0 | success |
| 1 | the command failed: the message says what was expected and what was found |
| 2 | a wrong option, name or recipe |
| 3 | a library, driver or device is missing; the hint says how to get it |
| 4 | the result is not accurate enough |
| 5 | an engine is beyond a limit of `edgekit compare --fail-if`, with its whole confidence interval |
| 6 | the runs are too few to decide a limit of `edgekit compare --fail-if` |
| 7 | an engine is not faster than FP32, with `edgekit build --require-faster` |
| 70 | a bug in EdgeKit |
| 130 | interrupted with Ctrl-C |
| 141 | the program that reads the output has ended, as `head -1` does |
"""


COMMON = {"--verbose", "--quiet"}


def commands_of(group: click.Group, name: str = "edgekit") -> Iterator[tuple[str, click.Command]]:
    """Every command below a group with its whole name, such as ``edgekit export triton``."""
    context = click.Context(group, info_name=name)
    for word in group.list_commands(context):
        command = group.get_command(context, word)
        if isinstance(command, click.Group):
            yield from commands_of(command, f"{name} {word}")
        elif command is not None and not command.hidden:
            yield f"{name} {word}", command


def markdown_from_commands() -> str:
    commands = list(commands_of(cli))
    note = note_on_origin("the commands of edgekit/cli/")
    lines = [INTRODUCTION.format(note=note, common="\n".join(_common()))]
    lines += table(
        ("command", "what it does"),
        ((f"[{code(name)}](#{name.replace(' ', '-')})", command.short_help or "") for name, command in commands),
    )
    for name, command in commands:
        lines += ["", *_command(name, command)]
    return "\n".join(lines) + "\n"


def _common() -> list[str]:
    """The table of the options of every command, as their help has them."""
    rows = [(", ".join(map(code, option.opts)), option.help or "") for option in common_options()]
    rows.append((f"{code('-h')}, {code('--help')}", "Show the help and exit."))
    return table(("option", "meaning"), rows)


def _command(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=name)
    yield f"## {name}"
    yield from ("", "```text", " ".join([name, *command.collect_usage_pieces(context)]), "```", "")
    yield inspect.cleandoc(command.help or "")
    headings: dict[str, list[click.Option]] = {}
    for option in command.params:
        # The introduction has the options of every command.
        if isinstance(option, click.Option) and not option.hidden and not COMMON.intersection(option.opts):
            headings.setdefault(getattr(option, "heading", ""), []).append(option)
    others = headings.pop("", [])
    titles = {**headings, ("Other options" if headings else "Options"): others}
    for title, options in titles.items():
        if options:
            yield from ("", f"**{title}**", "")
            yield from table(("option", "default", "meaning"), (_row(option, context) for option in options))
    if command.epilog:
        _, _, examples = inspect.cleandoc(command.epilog).replace("\b", "").strip().partition("\n")
        yield from ("", "```bash", inspect.cleandoc(examples), "```")


def _row(option: click.Option, context: click.Context) -> tuple[str, str, str]:
    record = option.get_help_record(context)
    spelling = record[0] if record else option.opts[0]
    return code(spelling), code(_default(option)), " ".join((option.help or "").split())


def _default(option: click.Option) -> str:
    """The default that the option declares; nothing for flags, and where the command decides."""
    value = option.default
    if option.is_flag or not isinstance(value, (str, int, float)) or isinstance(value, bool):
        return ""
    return str(value)
