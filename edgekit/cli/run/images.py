"""``edgekit run`` for engines that take pictures: the boxes of a detector, the likeliest classes of a classifier."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgekit.data.images import images_in
from edgekit.errors import DataError, UsageError
from edgekit.runtime.draw import draw
from edgekit.runtime.session import Session
from edgekit.runtime.tasks.classify import Classes
from edgekit.runtime.tasks.detect import Detections, coco_results

__all__ = ["classify_pictures", "detect_pictures"]

Note = Callable[[str], None]
Answer = TypeVar("Answer")


def detect_pictures(
    session: Session,
    source: Path,
    save: Path | None,
    thresholds: Mapping[str, Any],
    *,
    as_json: bool,
    note: Note,
) -> None:
    """Finds objects in a picture, or in every picture of a folder.

    Args:
        session: a detector.
        source: the picture or the folder.
        save: where pictures go with their boxes drawn: a file for one, a folder for several.
        thresholds: see `Session.detect`.
        as_json: print COCO's results instead of tables.
        note: is told of what was skipped or written.
    """
    pictures, several = _pictures(source)
    ids = _image_ids(pictures)
    results: list[dict[str, Any]] = []
    for picture, found, seconds in _each(pictures, lambda p: session.detect(p, **thresholds), several, source, note):
        results.extend(_results(found, ids[picture], picture))
        if not as_json:
            _print_detections(picture, found, seconds)
        if save is not None:
            _save_picture(picture, found, save / picture.name if several else save, note)
    if as_json:
        click.echo(json.dumps(results, indent=1))


def classify_pictures(
    session: Session, source: Path, save: Path | None, *, top: int, as_json: bool, note: Note
) -> None:
    """Tells the likeliest classes of a picture, or of every picture of a folder.

    Args:
        session: a classifier.
        source: the picture or the folder.
        save: nothing, as there is nothing to draw.
        top: how many classes to show.
        as_json: print JSON instead of tables: a list with an entry a picture.
        note: is told of what was skipped.
    """
    if save is not None:
        raise UsageError(
            f"--save {save}: expected a detector, whose boxes are drawn, got a classifier",
            hint="write what it says: --json > classes.json",
        )
    pictures, several = _pictures(source)
    results: list[dict[str, Any]] = []
    for picture, found, seconds in _each(pictures, lambda p: session.classify(p, top=top), several, source, note):
        entries = zip(found, found.indices.tolist(), strict=True)
        classes = [{"label": c.label, "index": index, "probability": round(c.probability, 6)} for c, index in entries]
        results.append({"file_name": picture.name, "classes": classes})
        if not as_json:
            _print_classes(picture, found, seconds)
    if as_json:
        click.echo(json.dumps(results, indent=1))


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


def _results(found: Detections, image_id: int, picture: Path) -> list[dict[str, Any]]:
    """COCO's entries, with two fields more, which its tools pass over: what a person wants to know of them."""
    entries = coco_results(found, image_id)
    return [
        {**entry, "file_name": picture.name, "label": label} for entry, label in zip(entries, found.labels, strict=True)
    ]


def _image_ids(pictures: list[Path]) -> dict[Path, int]:
    """COCO numbers its pictures in their file names; where names have no numbers of their own, counted from 1."""
    numbers = [re.search(r"\d+$", picture.stem) for picture in pictures]
    ids = [int(number[0]) for number in numbers if number]
    if len(set(ids)) < len(pictures):
        ids = list(range(1, len(pictures) + 1))
    return dict(zip(pictures, ids, strict=True))


def _print_detections(picture: Path, found: Detections, seconds: float) -> None:
    count = f"{len(found)} object{'' if len(found) == 1 else 's'}"
    table = _table("label", "score", "left", "top", "right", "bottom")
    for detection in found:
        table.add_row(detection.label, f"{detection.score:.3f}", *(f"{corner:.0f}" for corner in detection.box))
    _print_titled(picture, f": {count} in {seconds * 1000:.0f} ms", table if len(found) else None)


def _print_classes(picture: Path, found: Classes, seconds: float) -> None:
    table = _table("label", "probability")
    for label, probability in found:
        table.add_row(Text(label), f"{100 * probability:.2f} %")
    milliseconds = f"{seconds * 1000:.0f}" if seconds >= 0.01 else f"{seconds * 1000:.1f}"
    _print_titled(picture, f": {found[0].label}, in {milliseconds} ms", table)


def _print_titled(picture: Path, what: str, table: Table | None) -> None:
    console = Console(highlight=False)
    console.print(Text.assemble((picture.name, "bold"), what), soft_wrap=True)
    if table is not None:
        console.print(table)


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, style="bold")
    for column in others:
        table.add_column(column, justify="right")
    return table


def _save_picture(picture: Path, found: Detections, path: Path, note: Note) -> None:
    drawn = draw(picture, found)
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
