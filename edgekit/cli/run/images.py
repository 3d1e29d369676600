"""``edgekit run`` for engines that take images: shows results as tables or JSON, and draws them."""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from rich import box
from rich.table import Table
from rich.text import Text

from edgekit.cli.output import JsonOutput
from edgekit.cli.run.saved import check_images
from edgekit.cli.terminal import console as terminal
from edgekit.cli.terminal import say_written
from edgekit.data.coco_ids import CocoIds, ids_of_images
from edgekit.data.images import images_in, preprocess
from edgekit.data.input_statistics import without_padding
from edgekit.errors import DataError, UsageError
from edgekit.runtime.session import Session
from edgekit.runtime.tasks.task import ImageTask, Shown
from edgekit.specs import specs_at

__all__ = ["run_images"]

Note = Callable[[str], None]
Result = TypeVar("Result")


def run_images(
    session: Session,
    task: ImageTask[Any],
    source: Path,
    save: Path | None,
    options: Mapping[str, Any],
    *,
    force: bool,
    json_output: JsonOutput,
    note: Note,
) -> None:
    """Runs the session on an image, or on every image of a folder, and shows the results.

    Args:
        session: the engine.
        task: the engine's task.
        source: the image or the folder.
        save: where to write images with results drawn into them: a file for one image, a folder for several.
        options: see `ImageTask.predict`.
        force: replace the source image by the one with results, if ``save`` says so.
        json_output: where to write one JSON list of all results.
        note: receives a message for each image that is skipped or written.
    """
    images, several = _images(source)
    if save is not None and several:
        check_images(save, images, force=force)
    ids = _image_ids(images)
    # Only results with boxes have these ids.
    annotated = (
        ids_of_images(images, source if several else source.parent) if json_output.wanted and task.draws else None
    )
    if annotated is not None:
        note(f"image ids, and category ids of the same names, are those of {annotated.file}")
    entries: list[dict[str, Any]] = []
    noted: set[str] = set()
    for image, result, seconds in _each(
        images, lambda path: task.predict(session, path, **options), several, source, note
    ):
        for text in _unlike_training(session, image):
            note(text)
        entries.extend(_with_ids(task.entries(result, image, ids[image]), image, annotated))
        if not json_output.printed:
            _print(image, task.shown(result), seconds)
        if save is not None:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                drawn = task.drawn(result, image)
            for text in (str(warning.message) for warning in caught):
                if text not in noted:
                    noted.add(text)
                    note(text)
            _save_image(drawn, save / image.name if several else save)
    if json_output.wanted:
        json_output.write(json.dumps(entries, indent=1))


def _unlike_training(session: Session, image: Path) -> Iterator[str]:
    """Yields a note if an image is far from those that the model was trained or calibrated on."""
    manifest = session.manifest
    statistics, expects, how = manifest.input_statistics, manifest.expects, manifest.preprocess
    if statistics is None or how is None:
        return
    shape = specs_at([session.inputs[0]], manifest.shapes)[0].shape
    why = statistics.why_far(preprocess(image, without_padding(how), shape)[0])
    if why:
        expected = f"; the model expects {expects}" if expects else ""
        yield f"{image.name} is far from what the model was trained on, so the result may be wrong: {why}{expected}"


def _with_ids(entries: list[dict[str, Any]], image: Path, annotated: CocoIds | None) -> list[dict[str, Any]]:
    """Returns results with the ids of the annotation file that lists the image."""
    if annotated is None:
        return entries
    return [
        {
            **entry,
            "image_id": annotated.images[image],
            "category_id": annotated.categories.get(entry["label"].strip().casefold(), entry["category_id"]),
        }
        for entry in entries
    ]


def _images(source: Path) -> tuple[list[Path], bool]:
    several = source.is_dir()
    return (images_in(source) if several else [source]), several


def _each(
    images: list[Path], run: Callable[[Path], Result], several: bool, source: Path, note: Note
) -> Iterator[tuple[Path, Result, float]]:
    """Runs the engine on each image that can be read; yields the image, the result and the seconds."""
    skipped = 0
    for image in images:
        try:
            start = time.perf_counter()
            result = run(image)
            seconds = time.perf_counter() - start
        except DataError as e:
            # In a folder, an unreadable image is skipped and counted; a single one is an error.
            if not several:
                raise
            skipped += 1
            note(f"skipped: {e.message}")
            continue
        yield image, result, seconds
    if skipped == len(images):
        raise DataError(f"{source}: expected readable images, got {skipped} that cannot be read")


def _image_ids(images: list[Path]) -> dict[Path, int]:
    """Returns image ids: the numbers at the end of the file names, as in COCO, if they are unique; else 1, 2, ..."""
    numbers = [re.search(r"\d+$", image.stem) for image in images]
    ids = [int(number[0]) for number in numbers if number]
    if len(set(ids)) < len(images):
        ids = list(range(1, len(images) + 1))
    return dict(zip(images, ids, strict=True))


def _print(image: Path, shown: Shown, seconds: float) -> None:
    console = terminal()
    milliseconds = f"{seconds * 1000:.0f}" if seconds >= 0.01 else f"{seconds * 1000:.1f}"
    title = Text.assemble((image.name, "bold"), f": {shown.headline}, in {milliseconds} ms")
    console.print(title, soft_wrap=True)
    if not shown.rows:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(shown.columns):
        table.add_column(column, justify="right" if index else "left", style="" if index else "bold")
    for row in shown.rows:
        table.add_row(*map(Text, row))  # brackets in labels are not markup
    console.print(table)


def _save_image(drawn: Image.Image | None, path: Path) -> None:
    assert drawn is not None  # `run_images` has checked that the task draws
    replaced = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.save(path)
    except (OSError, ValueError) as e:
        raise UsageError(
            f"--save {path}: cannot be written: {getattr(e, 'strerror', None) or e}", hint="choose another file"
        ) from e
    say_written(path, replaced=replaced)
