"""Writes the output files of commands, and their results as JSON."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from edgekit.cli.options.outputs import require_no_part_of_engine
from edgekit.cli.options.paths import OutputFile
from edgekit.cli.terminal import echo, say_written
from edgekit.errors import UsageError
from edgekit.storage import descriptor_of, write_atomic

__all__ = ["JsonOutput", "json_options", "write_file"]

_STANDARD_OUTPUT = 1


def write_file(path: Path, content: bytes) -> None:
    """Writes ``content`` to ``path`` and says so on standard error; creates missing folders.

    Raises:
        UsageError: the file cannot be written: no permission, no space, a folder of that name; or it belongs to an
            engine.
    """
    require_no_part_of_engine(path)
    is_stream = descriptor_of(path) is not None
    replaced = path.is_file() and not is_stream
    try:
        if is_stream:
            sys.stdout.flush()  # what was printed before comes first
        write_atomic(path, content)
    except OSError as e:
        raise UsageError(f"{path}: cannot be written: {e.strerror}", hint="choose another file") from e
    say_written(path, replaced=replaced)


class JsonOutput(NamedTuple):
    """Where a command writes its result as JSON.

    Attributes:
        printed: to standard output, where nothing else may be written then.
        file: to this file.
    """

    printed: bool
    file: Path | None

    @property
    def wanted(self) -> bool:
        """Whether JSON is written at all."""
        return self.printed or self.file is not None

    def write(self, content: bytes | str) -> None:
        """Writes JSON where it was asked for, and says on standard error which file was written."""
        text = content.decode() if isinstance(content, bytes) else content
        text = text.rstrip("\n") + "\n"
        if self.file is not None:
            write_file(self.file, text.encode())
        if self.printed:
            echo(text.removesuffix("\n"))


def json_options(content: str, *, lines: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds ``--json`` and ``--json-file`` to a command; it gets a `JsonOutput` as ``json``.

    Args:
        content: what the JSON is, for ``--help``, as in "the report".
        lines: ``--json-file`` may also be a ``.jsonl`` file that exists.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_json(*args: Any, as_json: bool, json_file: Path | None, **options: Any) -> Any:
            if json_file is not None and descriptor_of(json_file) == _STANDARD_OUTPUT:
                as_json, json_file = True, None  # a table beside it would make it unreadable
            return command(*args, json=JsonOutput(as_json, json_file), **options)

        print_help = f"Print {content} as JSON, and nothing else, to standard output."
        write_help = f"Write {content} as JSON to F."
        file = OutputFile(".json", ".jsonl") if lines else OutputFile(".json")
        decorated = click.option("--json-file", type=file, metavar="F", help=write_help)(with_json)
        return click.option("--json", "as_json", is_flag=True, help=print_help)(decorated)

    return add
