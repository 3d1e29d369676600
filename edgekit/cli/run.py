"""``edgekit run``: an engine on a picture, a folder of pictures, or arrays in a file."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgekit.runtime.tasks import Detections

__all__ = ["run"]

EPILOG = """\b
Examples:
  edgekit run tiny photo.jpg --save boxes.jpg
  edgekit run tiny photos/ --json > detections.json
  edgekit run resnet input.npy --save outputs.npz
"""
ARRAYS = (".npy", ".npz")


@click.command(epilog=EPILOG, short_help="Run an engine on pictures or arrays.")
@click.argument("engine", type=click.Path(path_type=Path))
@click.argument("source", metavar="IMAGE|DIR|ARRAYS", type=click.Path(path_type=Path))
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Draw the boxes into OUT: a file for one picture, a folder for several; for arrays, an .npz file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print COCO results, and nothing else, on standard output.")
@click.option("--score-threshold", type=float, metavar="X", help="Keep detections that score above X.")
@click.option("--iou-threshold", type=float, metavar="X", help="Drop boxes that overlap a better one by more than X.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Threads to run on; 0 lets the backend choose.")
def run(
    engine: Path,
    source: Path,
    save: Path | None,
    as_json: bool,
    score_threshold: float | None,
    iou_threshold: float | None,
    threads: int,
) -> None:
    """Run ENGINE on a picture, on every picture of a folder, or on arrays in a .npy or .npz file."""
    from edgekit.runtime.session import session_from_bundle

    with session_from_bundle(engine, threads=threads) as session:
        for note in session.manifest.notes:
            _note(note)
        if source.suffix.lower() in ARRAYS or session.manifest.task != "detect":
            from edgekit.cli.run_arrays import run_arrays

            run_arrays(session, source, save, as_json=as_json)
        else:
            detect = functools.partial(session.detect, score_threshold=score_threshold, iou_threshold=iou_threshold)
            _run_pictures(detect, source, save, as_json=as_json)


def _run_pictures(detect: Callable[[Path], Detections], source: Path, save: Path | None, *, as_json: bool) -> None:
    import json

    from edgekit.data.images import images_in
    from edgekit.errors import DataError

    several = source.is_dir()
    pictures = images_in(source) if several else [source]
    ids = _image_ids(pictures)
    results: list[dict[str, Any]] = []
    skipped = 0
    for picture in pictures:
        try:
            start = time.perf_counter()
            found = detect(picture)
            seconds = time.perf_counter() - start
        except DataError as e:
            # One broken picture among many is skipped and counted; alone it is an error.
            if not several:
                raise
            skipped += 1
            _note(f"skipped: {e.message}")
            continue
        results.extend(_results(found, ids[picture], picture))
        if not as_json:
            _print_detections(picture, found, seconds)
        if save is not None:
            _save_picture(picture, found, save / picture.name if several else save)
    if skipped == len(pictures):
        raise DataError(f"{source}: expected pictures that can be read, got {skipped} broken ones")
    if as_json:
        click.echo(json.dumps(results, indent=1))


def _results(found: Detections, image_id: int, picture: Path) -> list[dict[str, Any]]:
    """COCO's entries, with two fields more, which its tools pass over: what a person wants to know of them."""
    from edgekit.runtime.tasks import coco_results

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
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    count = f"{len(found)} object{'' if len(found) == 1 else 's'}"
    console.print(Text.assemble((picture.name, "bold"), f": {count} in {seconds * 1000:.0f} ms"), soft_wrap=True)
    if not len(found):
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("label", style="bold")
    for column in ("score", "left", "top", "right", "bottom"):
        table.add_column(column, justify="right")
    for detection in found:
        table.add_row(detection.label, f"{detection.score:.3f}", *(f"{corner:.0f}" for corner in detection.box))
    console.print(table)


def _save_picture(picture: Path, found: Detections, path: Path) -> None:
    from edgekit.errors import UsageError
    from edgekit.runtime.draw import draw

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
    _note(f"wrote {path}")


def _note(text: str) -> None:
    click.echo(f"{click.style('note:', fg='yellow', bold=True)} {text}", err=True)
