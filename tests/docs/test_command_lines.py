"""Every ``edgekit`` command line of the documentation is parsed by click, without being run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgekit.cli.main import cli
from edgekit.cli.options.paths import InputPath
from edgekit.errors import UsageError
from tools.docs.pages import DOCS, ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
CODE = re.compile(r"^```(?:bash|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def whole_lines(text: str) -> Iterator[list[str]]:
    """The words after ``edgekit`` of every command in a code block."""
    for block in CODE.findall(text):
        for line in block.splitlines():
            if "edgekit" not in line or "[OPTIONS]" in line:
                continue
            words = shlex.split(line.removeprefix("$ "), comments=True)
            breaks = [i for i, word in enumerate(words) if word in ("&&", "|", ";", ">")]
            for start, end in zip([0, *(i + 1 for i in breaks)], [*breaks, len(words)], strict=True):
                if words[start:end][:1] == ["edgekit"]:
                    yield words[start + 1 : end]


def mentions(text: str) -> Iterator[list[str]]:
    """The words after ``edgekit`` of every command in running text; options and arguments may be left out there."""
    without_blocks = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for words in re.findall(r"`edgekit ([^`]*)`", without_blocks):
        yield words.replace("'", "").split()


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the first words name, and the rest; raises `UsageError` if there is none."""
    command: click.Command = cli
    words = list(words)
    while isinstance(command, click.Group):
        context = click.Context(command)
        while words and words[0].startswith("-"):
            check_options(command, [words.pop(0)])
        if not words or words[0].isupper():
            break
        found = command.get_command(context, words[0])
        if found is None:
            raise UsageError(f"no command '{words[0]}'")
        command, words = found, words[1:]
    return command, words


def check_options(command: click.Command, words: list[str]) -> None:
    known = {name for p in command.get_params(click.Context(command)) for name in (*p.opts, *p.secondary_opts)}
    unknown = [word for word in words if word.startswith("-") and word.partition("=")[0] not in known]
    if unknown:
        raise UsageError(f"{command.name}: no option {', '.join(unknown)}")


def check_whole(words: list[str]) -> None:
    command, rest = command_of(words)
    try:
        command.make_context(command.name, rest)
    except click.exceptions.Exit:
        pass  # --help


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_in_code_blocks_are_valid(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InputPath, "convert", lambda self, value, param, ctx: Path(value))  # the examples' files
    for words in whole_lines(page.read_text(encoding="utf-8")):
        try:
            check_whole(words)
        except (click.ClickException, UsageError) as e:
            pytest.fail(f"edgekit {shlex.join(words)}: {e}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_in_running_text_exist(page: Path) -> None:
    for words in mentions(page.read_text(encoding="utf-8")):
        command, rest = command_of(words)
        check_options(command, rest)


def test_the_readme_has_commands_to_check() -> None:
    assert len(list(whole_lines((ROOT / "README.md").read_text(encoding="utf-8")))) >= 8


@pytest.mark.parametrize(
    "line", ["bild yolov3", "build yolov3 --in8", "run", "export tritn a b", "build x --input y:z"]
)
def test_a_wrong_command_line_is_found(line: str) -> None:
    with pytest.raises((click.ClickException, UsageError)):
        check_whole(line.split())
