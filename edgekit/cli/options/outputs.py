"""Checks what a command writes against what it reads and writes besides, before anything slow begins."""

from __future__ import annotations

import functools
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from edgekit.cli.options.paths import OutputFile, OutputPlace
from edgekit.errors import UsageError

__all__ = ["check_outputs", "require_no_part_of_engine", "with_outputs_checked"]

MANIFEST = "manifest.json"


def with_outputs_checked(command: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a click command check its outputs before it runs."""

    @functools.wraps(command)
    def checked(*args: Any, **options: Any) -> Any:
        check_outputs(click.get_current_context())
        return command(*args, **options)

    return checked


def check_outputs(ctx: click.Context) -> None:
    """Checks that each file is written once, is not one that is read, and is no part of an engine.

    Raises:
        UsageError: one of them is not so.
    """
    files = list(_given(ctx, OutputFile))
    # Pictures and text files may be written to one folder.
    pairs = [*itertools.combinations(files, 2), *itertools.product(files, _given(ctx, OutputPlace))]
    for (name, path), (other, place) in pairs:
        if _is_same(path, place) and os.path.realpath(path) != os.devnull:
            raise UsageError(
                f"{name} and {other}: expected two files, got {path} for both", hint=f"choose another name for {other}"
            )
    for name, path in files:
        require_no_part_of_engine(path, option=name)
        read = next((text for text, source in _sources(ctx) if _is_same(path, source)), None)
        if read is not None and not ctx.params.get("force"):
            raise UsageError(
                f"{name} {path}: expected another file than {read}, which would be replaced", hint="choose another name"
            )


def require_no_part_of_engine(path: Path, *, option: str = "") -> None:
    """Checks that a file is none of those that an engine consists of: the engine could not be loaded afterwards.

    Args:
        path: the file to write.
        option: the option that names it, for the message.

    Raises:
        UsageError: it is one of them.
    """
    place = Path(os.path.realpath(path))
    folder = next((parent for parent in place.parents if (parent / MANIFEST).is_file()), None)
    if folder is not None and place.relative_to(folder).as_posix() in _files_of_engine(folder):
        raise UsageError(
            f"{f'{option} {path}'.lstrip()}: expected another file than those of the engine in {folder}, which could "
            "not be loaded afterwards",
            hint="choose another name or folder",
        )


def _files_of_engine(folder: Path) -> set[str]:
    try:
        found = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):  # no engine; a command that loads it says so
        return set()
    files = found.get("files") if isinstance(found, dict) and "engine" in found else None
    return {MANIFEST, *files} if isinstance(files, dict) else set()


def _given(ctx: click.Context, kind: type[OutputFile] | type[OutputPlace]) -> Iterator[tuple[str, Path]]:
    for parameter in ctx.command.params:
        value = ctx.params.get(parameter.name or "") if type(parameter.type) is kind else None
        if isinstance(value, Path):
            yield max(parameter.opts, key=len), value


def _sources(ctx: click.Context) -> Iterator[tuple[str, Path]]:
    """Yields the files that other parameters name, as far as they exist."""
    for parameter in ctx.command.params:
        if isinstance(parameter.type, (OutputFile, OutputPlace)):
            continue
        name = parameter.human_readable_name if isinstance(parameter, click.Argument) else max(parameter.opts, key=len)
        for text in _texts(ctx.params.get(parameter.name or "")):
            path = Path(text)
            if _is_file(path):
                yield f"{name} {text}", path


def _texts(value: object) -> Iterable[str | Path]:
    values = value if isinstance(value, (tuple, list)) else (value,)
    return [each for each in values if isinstance(each, (str, Path))]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no name of a file
        return False


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # one of them does not exist yet
        return os.path.realpath(one) == os.path.realpath(other)
