"""Numbers that no option takes: too large, NaN, no numbers."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from edgekit.cli.main import cli, main
from edgekit.cli.options.parameters import Real

NUMBERS = (click.types.IntParamType, click.types.FloatParamType)
NONSENSE = ("1" + 30 * "0", "9" * 5000, "-1", "nan", "1e999", "1x", "")


def numeric_options() -> Iterator[tuple[str, click.Option]]:
    context = click.Context(cli)
    for name in cli.commands_on_use:
        command = cli.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option) and isinstance(parameter.type, NUMBERS):
                yield name, parameter


OPTIONS = [
    pytest.param(command, option, id=f"{command}-{option.opts[0]}", marks=()) for command, option in numeric_options()
]


def test_all_numbers_have_a_range() -> None:
    assert len(OPTIONS) > 30
    for command, option in numeric_options():
        assert isinstance(option.type, (click.IntRange, Real)), (command, option.name)
        assert option.type.min is not None and option.type.max is not None, (command, option.name)


@pytest.mark.parametrize(("command", "option"), OPTIONS)
@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: value[:12] or "empty")
def test_a_number_out_of_range_is_an_error_of_usage(
    command: str, option: click.Option, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, f"{option.opts[-1]}={value}"]) == 2
    error = capsys.readouterr().err
    assert option.opts[-1] in error and "Traceback" not in error
