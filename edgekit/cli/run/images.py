"""``edgekit run`` for engines that take pictures: a picture or a folder of them, results as tables, JSON or drawn."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgekit.data.images import images_in
from edgekit.errors import DataError, UsageError
from edgekit.runtime.session import Session
from edgekit.runtime.tasks.choose import tasks
from edgekit.runtime.tasks.task import PictureTask, Shown

__all__ = ["run_pictures"]

Note = Callable[[str], None]
Answer = TypeVar("Answer")


def run_pictures(
    session: Session,
    task: PictureTask[Any],
    source: Path,
    save: Path | None,
    options: Mapping[str, Any],
    *,
    as_json: bool,
    note: Note,
) -> None:
    """Runs the session on a picture, or on every picture of a folder, and shows the results.

    Args:
        session: the engine.
        task: its task.
        source: the picture or the folder.
        save: where pictures go with their results drawn: a file for one, a folder for several.
        options: see `PictureTask.answer`.
        as_json: print one JSON list of all results instead of tables.
        note: receives a message for each picture that was skipped or written.
    """
    if save is not None and not task.draws:
        raise _not_drawn(save, task)
    pictures, several = _pictures(source)
    ids = _image_ids(pictures)
    entries: list[dict[str, Any]] = []
    for picture, result, seconds in _each(
        pictures, lambda p: task.answer(session, p, **options), several, source, note
    ):
        entries.extend(task.entries(result, picture, ids[picture]))
        if not as_json:
            _print(picture, task.shown(result), seconds)
        if save is not None:
            _save_picture(task.drawn(result, picture), save / picture.name if several else save, note)
    if as_json:
        click.echo(json.dumps(entries, indent=1))


def _not_drawn(save: Path, task: PictureTask[Any]) -> UsageError:
    drawing = [
        f"{each.engine}, whose {each.draws} are drawn"
        for each in tasks().values()
        if isinstance(each, PictureTask) and each.draws
    ]
    return UsageError(
        f"--save {save}: expected {' or '.join(drawing)}, got {task.engine}",
        hint="write what it says: --json > results.json",
    )


def _pictures(source: Path) -> tuple[list[Path], bool]:
    several = source.is_dir()
    return (images_in(source) if several else [source]), several


def _each(
    pictures: list[Path], answer: Callable[[Path], Answer], several: bool, source: Path, note: Note
) -> Iterator[tuple[Path, Answer, float]]:
    """Each picture that can be read, what the engine says of it, and in how many seconds."""
    skipped = 0
    for picture in pictures:
        try:
            start = time.perf_counter()
            found = answer(picture)
            seconds = time.perf_counter() - start
        except DataError as e:
            # One broken picture among many is skipped and counted; alone it is an error.
            if not several:
                raise
            skipped += 1
            note(f"skipped: {e.message}")
            continue
        yield picture, found, seconds
    if skipped == len(pictures):
        raise DataError(f"{source}: expected pictures that can be read, got {skipped} broken ones")


def _image_ids(pictures: list[Path]) -> dict[Path, int]:
    """COCO numbers its pictures in their file names; where names have no numbers of their own, counted from 1."""
    numbers = [re.search(r"\d+$", picture.stem) for picture in pictures]
    ids = [int(number[0]) for number in numbers if number]
    if len(set(ids)) < len(pictures):
        ids = list(range(1, len(pictures) + 1))
    return dict(zip(pictures, ids, strict=True))


def _print(picture: Path, shown: Shown, seconds: float) -> None:
    console = Console(highlight=False)
    milliseconds = f"{seconds * 1000:.0f}" if seconds >= 0.01 else f"{seconds * 1000:.1f}"
    title = Text.assemble((picture.name, "bold"), f": {shown.headline}, in {milliseconds} ms")
    console.print(title, soft_wrap=True)
    if not shown.rows:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(shown.columns):
        table.add_column(column, justify="right" if place else "left", style="" if place else "bold")
    for row in shown.rows:
        table.add_row(*map(Text, row))  # labels may have brackets, which are no markup
    console.print(table)


def _save_picture(drawn: Image.Image | None, path: Path, note: Note) -> None:
    assert drawn is not None  # the task draws
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.save(path)
    except ValueError as e:
        raise UsageError(
            f"--save {path}: expected a name that ends in an image's suffix, got '{path.suffix}'",
            hint=f"name it {path.with_suffix('.png')}",
        ) from e
    except OSError as e:
        raise UsageError(f"--save {path}: cannot be written: {e.strerror or e}", hint="name another file") from e
    note(f"wrote {path}")
