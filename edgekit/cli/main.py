"""``edgekit``: the entry point, the table of commands, and the conversion of errors to messages and exit codes."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

import click

import edgekit
from edgekit.arguments import on_command_line
from edgekit.cli.lazy import LazyGroup
from edgekit.cli.options.common import common_options
from edgekit.cli.options.environment import write_environment
from edgekit.cli.options.hinted import HintedError
from edgekit.cli.shortened_files import shortened_files_are_named
from edgekit.cli.streams import discard_output, escape_what_streams_lack, output_failure, watch_streams
from edgekit.cli.terminal import SETTINGS, color, echo, note
from edgekit.data.image_notes import image_notes
from edgekit.errors import EdgeKitError, UsageError
from edgekit.interrupts import runs_end_on_interrupt
from edgekit.storage import why_no_room

__all__ = ["cli", "main"]

BUG = 70
"""Exit code of an internal error: EX_SOFTWARE of sysexits.h."""
INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + signal.SIGPIPE
"""What a shell reports of `ls | head -1`, whose `ls` is ended by that signal."""

EPILOG = """\b
Examples:
  edgekit build yolov3-tiny --int8 --weights coco -o tiny
  edgekit run tiny photo.jpg --save boxes.jpg
  edgekit profile tiny --html report.html

\b
Exit codes:
  0 success; 1 an error; 2 wrong usage; 3 a library or device is missing;
  4 accuracy beyond its tolerance; 5 a limit of `compare` is exceeded,
  6 is undecided; 7 not faster than FP32 (`build --require-faster`);
  70 a bug in EdgeKit; 130 interrupted; 141 the reader of the output ended.
"""


class _Root(LazyGroup):
    """The group of all commands; its ``--help`` shows the environment variables too."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_commands(ctx, formatter)
        write_environment(formatter)


@click.group(
    cls=_Root,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    commands_on_use={
        "demo": ("edgekit.cli.demo:demo", "Build a small detector and run it on a shipped photo."),
        "build": ("edgekit.cli.build:build", "Compile a model into an engine and measure it."),
        "compile": ("edgekit.cli.compile:compile_engine", "Build the engine of a bundle for this machine."),
        "run": ("edgekit.cli.run.command:run", "Run an engine on images, videos, texts or arrays."),
        "profile": ("edgekit.cli.profile:profile", "Measure the latency of an engine, stage by stage."),
        "compare": ("edgekit.cli.compare:compare", "Compare engines, or reports, by their latency."),
        "eval": ("edgekit.cli.eval.command:evaluate", "Measure the accuracy of an engine or a model."),
        "train": ("edgekit.cli.train:train", "Train a model on a data set."),
        "anchors": ("edgekit.cli.anchors:anchors", "Find anchors that fit the boxes of a data set."),
        "inspect": ("edgekit.cli.inspect:inspect", "List the layers of an engine or a model."),
        "debug": ("edgekit.cli.debug:debug", "Find the layers in which a model loses its numbers."),
        "estimate": ("edgekit.cli.estimate:estimate", "Estimate the latency on a board that is not here."),
        "export": ("edgekit.cli.export:export", "Export an engine for another program."),
        "doctor": ("edgekit.cli.doctor.command:doctor", "Show what this machine can build and run."),
        "recipe": ("edgekit.cli.recipe:recipe", "Write a recipe for a model of your own."),
        "models": ("edgekit.cli.models:models", "List the models that EdgeKit includes."),
        "help": ("edgekit.cli.help:help_of_command", "Show the help of a command."),
        "version": ("edgekit.cli.help:version", "Show the version of EdgeKit."),
    },
)
@click.version_option(edgekit.__version__, "-V", "--version", message="edgekit %(version)s")
def cli() -> None:
    """Compile PyTorch and ONNX models into INT8 engines for edge devices.

    An engine is a folder: build it once, run it, profile it, or copy it to a similar machine.
    """


cli.params += common_options()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code; converts every error to a message.

    Args:
        arguments: arguments after ``edgekit``; None for those of ``sys.argv``.
    """
    SETTINGS.verbose = SETTINGS.quiet = False
    watch_streams()
    escape_what_streams_lack()
    with on_command_line(), image_notes(note), shortened_files_are_named():
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    with _SeenInterrupts() as interrupts:
        try:
            with runs_end_on_interrupt():
                result = cli.main(args=arguments, prog_name="edgekit", standalone_mode=False, color=color())
                sys.stdout.flush()
            # Without standalone mode, click returns the exit code of `ctx.exit`, or what the command returns.
            return result if isinstance(result, int) else 0
        except BaseException as error:
            if isinstance(error, (KeyboardInterrupt, click.Abort)) or interrupts.seen:
                # A library may convert the exception, as numpy does to an ImportError while it is imported.
                _say_interrupted()
                return INTERRUPTED
            return _ended(error, sys.argv[1:] if arguments is None else arguments)


class _SeenInterrupts:
    """Notices Ctrl-C, which raises KeyboardInterrupt as before."""

    def __init__(self) -> None:
        self.seen = False

    def __enter__(self) -> _SeenInterrupts:
        # Only the main thread may set handlers, and a program that calls `main` may have its own.
        main_thread = threading.current_thread() is threading.main_thread()
        self._ours = main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._ours:
            signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *error: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        raise KeyboardInterrupt


def _ended(error: BaseException, arguments: Sequence[str]) -> int:
    """Says what ended a command, and returns the exit code."""
    if isinstance(error, EdgeKitError):
        if SETTINGS.verbose:
            _say_traceback(error)
        _say(error.message, error.hint)
        return error.exit_code
    if isinstance(error, click.ClickException):
        # Click's suggestions for an unknown option or subcommand go into the hint.
        message = error.message if _possibilities(error) else error.format_message()
        _say(_as_ours(message), _hint_of(error, arguments))
        return error.exit_code
    # Before SystemExit, by which click ends a program whose output nobody reads.
    if failure := output_failure():
        discard_output()
        if isinstance(failure, BrokenPipeError):
            return BROKEN_PIPE
        _say(f"cannot write to standard output: {failure.strerror}", "")
        return EdgeKitError.exit_code
    if isinstance(error, BrokenPipeError):  # standard error: nobody reads what is said here
        return BROKEN_PIPE
    if isinstance(error, SystemExit):
        raise error
    if of_system := _of_system(error):
        _say(*of_system)
        return UsageError.exit_code
    _say_traceback(error)
    _say("this is a bug in EdgeKit", "please report the lines above together with what `edgekit doctor` prints")
    return BUG


def _of_system(error: BaseException) -> tuple[str, str] | None:
    """Returns message and hint of an error that any use of a name, or of memory, may raise; None for another."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        # The system refuses every use of such a name, the question whether it exists too.
        name = Path(str(error.filename)).name
        return f"{name[:40]}…: the name is too long for a file: {len(os.fsencode(name))} bytes", "use a shorter name"
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return f"{error.filename}: links lead to each other", "remove one of them"
    if isinstance(error, FileNotFoundError) and error.filename is None and not _has_working_directory():
        return "the working directory was deleted", "change to a folder that exists"
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return f"{error.object!r}: expected a name in UTF-8, got other bytes", "rename the file or the folder"
    if isinstance(error, OSError) and (why := why_no_room(error)):
        return f"{error.filename or 'a file'}: cannot be written: {why}", "make room, or choose a place on another disk"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        place = error.filename if error.filename is not None else "a file"
        return (
            f"{place}: cannot be read or written: {error.strerror}",
            "choose another place, or change its permissions",
        )
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}".removesuffix(
            ": "
        ), "choose smaller inputs, a smaller batch or fewer images"
    return None


def _has_working_directory() -> bool:
    try:
        return bool(os.getcwd())
    except OSError:
        return False


def _hint_of(error: click.ClickException, arguments: Sequence[str]) -> str:
    after_json = [word for flag, word in zip(arguments, arguments[1:], strict=False) if flag == "--json"]
    if isinstance(error, click.UsageError) and any(word.endswith(".json") for word in after_json):
        # Before --json meant the same on every command, `profile --json FILE` wrote a file.
        return f"--json prints to standard output; to write a file: --json-file {after_json[0]}"
    if isinstance(error, HintedError) and error.hint:
        return error.hint
    if possibilities := _possibilities(error):
        return f"did you mean {' or '.join(sorted(possibilities))}?"
    if isinstance(error, click.UsageError):
        return f"see {error.ctx.command_path if error.ctx else _command_in(arguments)} --help"
    return ""


def _command_in(arguments: Sequence[str]) -> str:
    """Returns the command of an error that click raises without a context, as for an option without its value."""
    named = next((word for word in arguments if not word.startswith("-")), "")
    return f"edgekit {named}" if named in cli.list_commands(click.Context(cli)) else "edgekit"


def _possibilities(error: click.ClickException) -> Sequence[str]:
    return getattr(error, "possibilities", None) or ()


def _as_ours(message: str) -> str:
    """Converts click's messages to EdgeKit's form: no capital, no full stop."""
    return message[:1].lower() + message[1:].rstrip(".")


def _say_interrupted() -> None:
    with suppress(OSError):  # standard error is closed or full, and there is no other place to say so
        echo("\ninterrupted", err=True)


def _say(message: str, hint: str) -> None:
    with suppress(OSError):
        echo(message, title="error:", title_color="red", err=True)
        for line in hint.splitlines():
            echo(line, title="hint:", title_color="cyan", err=True)


def _say_traceback(error: BaseException) -> None:
    with suppress(OSError):
        echo("".join(traceback.format_exception(error)).rstrip("\n"), err=True)
