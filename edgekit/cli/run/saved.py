"""Checks ``edgekit run --save`` before the engine is loaded: the suffix decides what is written, or is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from edgekit.errors import UsageError
from edgekit.runtime.tasks.choose import tasks
from edgekit.runtime.tasks.task import ImageTask

__all__ = ["ARRAYS", "check_image", "check_suffix", "is_image_name", "not_drawn"]

ARRAYS = (".npz", ".npy")


def check_suffix(save: Path, suffixes: Sequence[str], content: str) -> None:
    """Checks that a file name ends in one of some suffixes.

    Args:
        save: the file to write.
        suffixes: suffixes of files with this content, the usual one first.
        content: what is written, for the message.

    Raises:
        UsageError: the suffix is another one.
    """
    if save.suffix.lower() not in suffixes:
        raise UsageError(
            f"--save {save}: expected a name that ends in {' or '.join(suffixes)}, since {content} are written, got "
            f"{save.suffix or 'no suffix'!r}",
            hint=f"name it {save.with_suffix(suffixes[0])}",
        )


def check_image(save: Path, source: Path, *, force: bool) -> None:
    """Checks the file to write one image with results to.

    Raises:
        UsageError: its suffix is not of an image format, it is a folder, or it is the source and ``force`` is False.
    """
    if save.is_dir():
        raise UsageError(f"--save {save}: expected a file, got a folder", hint=f"name it {save / source.name}")
    if not is_image_name(save):
        raise UsageError(
            f"--save {save}: expected the suffix of an image format, got '{save.suffix}'",
            hint=f"name it {save.with_suffix('.png')}",
        )
    _refuse_source(save, source, force=force)


def not_drawn(save: Path, task: ImageTask[Any]) -> UsageError:
    """Returns the error for ``--save`` with an engine whose results cannot be drawn."""
    drawing = [f"'{each.name}'" for each in tasks().values() if isinstance(each, ImageTask) and each.draws]
    return UsageError(
        f"--save {save}: expected an engine for task {' or '.join(drawing)}, whose results are drawn, got "
        f"{task.engine}",
        hint="write the results as JSON: --json-file results.json",
    )


def is_image_name(path: Path) -> bool:
    """Whether a name has the suffix of an image format that Pillow writes."""
    Image.init()
    return Image.registered_extensions().get(path.suffix.lower()) in Image.SAVE


def _refuse_source(save: Path, source: Path, *, force: bool) -> None:
    if not force and save.exists() and source.exists() and save.samefile(source):
        raise UsageError(
            f"--save {save}: expected another file than the source, which would be replaced",
            hint="choose another name, or replace it with --force",
        )
