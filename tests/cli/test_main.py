from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

import edgekit
from edgekit.cli.main import cli, main
from edgekit.errors import AccuracyError, BackendUnavailable, BuildError, EdgeKitError, UsageError


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `edgekit models` raise."""

    def install(error: BaseException) -> None:
        def fail() -> None:
            raise error

        command = click.Command("models", callback=fail)
        monkeypatch.setattr(type(cli), "get_command", lambda self, ctx, name: command)

    return install


def test_help_lists_every_command_with_a_line_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in cli.list_commands(click.Context(cli)))
    assert "edgekit build yolov3-tiny --int8" in out


def test_the_command_list_shows_the_commands_short_help() -> None:
    context = click.Context(cli)
    lines = {name: cli.get_command(context, name).short_help for name in cli.list_commands(context)}
    assert lines == {name: summary for name, (_, summary) in cli.commands_on_use.items()}


@pytest.mark.parametrize("command", sorted(cli.commands_on_use))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"Usage: edgekit {command}" in capsys.readouterr().out


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"edgekit {edgekit.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["bild"], "did you mean build?"),
        (["modles"], "did you mean models?"),
        (
            ["zzz"],
            "known: anchors, build, compare, compile, debug, demo, doctor, estimate, eval, export, help, inspect, "
            "models, profile, recipe, run, train, version",
        ),
        (["build", "--in8"], "did you mean --input or --int8?"),
        (["profile", "--rns", "3"], "did you mean --layers or --runs?"),
        (["build"], "see edgekit build --help"),
        (["build", "x", "--calib-method", "kl"], "see edgekit build --help"),
    ],
)
def test_a_mistyped_command_line_says_what_was_meant(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    error, given = captured.err.splitlines()
    assert error.startswith("error: ")
    assert given == f"hint: {hint}"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EdgeKitError("m"), 1),
        (BuildError("m"), 1),
        (UsageError("m"), 2),
        (BackendUnavailable("m"), 3),
        (AccuracyError("m"), 4),
    ],
)
def test_errors_of_edgekit_are_a_message_and_their_exit_code(
    failing: Callable[[BaseException], None], error: EdgeKitError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(error)
    assert main(["models"]) == code
    assert capsys.readouterr().err == "error: m\n"


def test_every_line_of_a_hint_is_marked(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(EdgeKitError("what", hint="first\nsecond"))
    main(["models"])
    assert capsys.readouterr().err == "error: what\nhint: first\nhint: second\n"


def test_verbose_shows_the_traceback(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    error = EdgeKitError("ours")
    error.__cause__ = ValueError("theirs")
    failing(error)
    assert main(["-v", "models"]) == 1
    err = capsys.readouterr().err
    assert "ValueError: theirs" in err
    assert err.endswith("error: ours\n")


def test_a_bug_keeps_its_traceback_and_asks_for_a_report(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(ZeroDivisionError("oops"))
    assert main(["models"]) == 70
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "ZeroDivisionError: oops" in err
    assert "edgekit doctor" in err.splitlines()[-1]


def test_ctrl_c_is_one_line_and_130(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(KeyboardInterrupt())
    assert main(["models"]) == 130
    assert capsys.readouterr().err.strip() == "interrupted"


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_a_command_that_runs(arrays_engine: Path) -> None:
    command = [sys.executable, "-m", "edgekit", "profile", str(arrays_engine), "--duration", "60"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as running:
        assert running.stderr is not None
        # The first line says that measuring has begun.
        assert "measuring" in running.stderr.readline()
        running.send_signal(signal.SIGINT)
        rest = running.stderr.read()
    assert running.returncode == 130
    assert "Traceback" not in rest
    assert rest.rstrip().endswith("interrupted")


@pytest.mark.skipif(os.name == "nt", reason="pipes break in another way on Windows")
def test_a_closed_pipe_is_not_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "models", "--names"], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert done.returncode == 141
    assert done.stderr == b""


def test_messages_have_no_colour_without_a_terminal() -> None:
    done = subprocess.run([sys.executable, "-m", "edgekit", "bild"], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"\x1b" not in done.stderr
