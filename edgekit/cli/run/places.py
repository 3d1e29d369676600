"""Where ``edgekit run`` saves the pictures and videos of its sources; checked before the engine is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from edgekit.cli.run.saved import check_image, is_image_name
from edgekit.data.video.given import Given, is_address, is_one_picture
from edgekit.data.video.writer import WRITTEN_SUFFIXES
from edgekit.errors import UsageError

__all__ = ["Places", "file_name_of", "relative_places"]


class Places:
    """Where the results of each source are saved.

    Args:
        save: a file for one picture or video that was named itself, else a folder.
        given: the sources.
        force: let a file replace the source that it is made from.

    Raises:
        UsageError: a name does not fit what is saved, or a source would be replaced and ``force`` is False.
    """

    def __init__(self, save: Path, given: Sequence[Given], *, force: bool = False) -> None:
        self._save = save
        self._places: dict[str, Path] = {}
        if len(given) == 1 and given[0].within is None:
            self._places[given[0].key] = self._of_one(given[0], force)
        else:
            self._check_folder(given)
            self._places = {key: save / path for key, path in relative_places(given).items()}
        if not force:
            self._refuse_sources(given)

    def of(self, key: str) -> Path:
        """Returns the file for the picture or video with this `Given.key`."""
        return self._places[key]

    def _of_one(self, given: Given, force: bool) -> Path:
        save = self._save
        if is_one_picture(given):
            check_image(save, given.path if given.kind == "picture" else Path(file_name_of(given)), force=force)
            return save
        if save.suffix.lower() in WRITTEN_SUFFIXES and not save.is_dir():
            return save
        if save.suffix and not save.is_dir():
            raise UsageError(
                f"--save {save}: expected a folder, or a name that ends in {', '.join(WRITTEN_SUFFIXES)}, since a "
                f"video is written, got '{save.suffix}'",
                hint=f"name it {save.with_suffix('.mp4')}",
            )
        return save / _relative(given)

    def _check_folder(self, given: Sequence[Given]) -> None:
        save = self._save
        kind = "image" if all(map(is_one_picture, given)) else "source"
        count = f"is 1 {kind} of a folder" if len(given) == 1 else f"are {len(given)} {kind}s"
        named = is_image_name(save) or save.suffix.lower() in WRITTEN_SUFFIXES
        if save.is_file() or (named and not save.is_dir()):
            what = "a file" if save.is_file() else "the name of an image" if is_image_name(save) else "that of a video"
            raise UsageError(
                f"--save {save}: expected a folder, since there {count}, got {what}",
                hint=f"name it {save.with_suffix('') if save.suffix else save.with_name(f'{save.name}-results')}",
            )

    def _refuse_sources(self, given: Sequence[Given]) -> None:
        sources = {_identity(each.path) for each in given if each.kind in ("picture", "video")} - {None}
        for place in self._places.values():
            if _identity(place) in sources:
                raise UsageError(
                    f"--save {place}: expected another file than the source, which would be replaced",
                    hint="choose another name, or replace it with --force",
                )


def relative_places(given: Sequence[Given], *, by_stem: bool = False) -> dict[str, Path]:
    """Returns a path for each source's results, relative to their folder, by `Given.key`.

    Pictures and videos of a folder keep their subfolders. The second ``a.jpg`` becomes ``a-2.jpg``; with ``by_stem``,
    so does ``a.png`` behind ``a.jpg`` become ``a-2.png``, for files with another suffix.
    """
    places: dict[str, Path] = {}
    used: set[Path] = set()

    def taken(path: Path) -> Path:
        return path.with_suffix("") if by_stem else path

    for each in given:
        if each.key in places:
            continue  # a source that was given twice, as by a folder and a glob
        name = found = _relative(each)
        number = 1
        while taken(found) in used:
            number += 1
            found = name.with_name(f"{name.stem}-{number}{name.suffix}")
        used.add(taken(found))
        places[each.key] = found
    return places


def file_name_of(given: Given) -> str:
    """Returns a file name for a source, without a suffix if it is not a file: ``camera-0``, ``stdin``."""
    if given.kind in ("picture", "video"):
        return given.path.name
    if given.kind == "stdin":
        return "stdin.png" if is_one_picture(given) else "stdin"
    if is_address(given.place):
        parts = urlsplit(given.place)
        return Path(parts.path).name if is_one_picture(given) else _plain(f"{parts.hostname}{parts.path}")
    return _plain(given.place)


def _relative(given: Given) -> Path:
    """Returns the path below the folder of results."""
    name = Path(file_name_of(given))
    if given.within is not None and given.path.is_relative_to(given.within):
        name = given.path.relative_to(given.within)
    if is_one_picture(given):
        return name if is_image_name(name) else name.with_suffix(".png")
    return name if name.suffix.lower() in WRITTEN_SUFFIXES else name.with_name(f"{name.name}.mp4")


def _plain(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")[:100] or "video"


def _identity(path: Path) -> tuple[int, int] | None:
    """Returns what is equal for two names of one file; None if there is no such file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
