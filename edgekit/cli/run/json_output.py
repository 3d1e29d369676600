"""The results of ``edgekit run`` as JSON: one list, or a line for each frame (JSON Lines)."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from edgekit.cli.output import JsonOutput
from edgekit.cli.run.items import Item
from edgekit.cli.terminal import echo, say_written
from edgekit.data.coco_ids import CocoIds
from edgekit.data.video.source import Source
from edgekit.errors import UsageError

__all__ = ["CocoList", "FrameList", "JsonLines", "PictureIds"]


class PictureIds:
    """The image ids of pictures: those of an annotation file, else the numbers in their names, as in COCO.

    Args:
        pictures: all pictures.
        annotated: the ids of an annotation file that lists them all; None if there is none.
    """

    def __init__(self, pictures: Sequence[Path], annotated: CocoIds | None) -> None:
        self._annotated = annotated
        self._ids: dict[Path, int] = _numbers(pictures)

    def entries(self, item: Item) -> list[dict[str, Any]]:
        """Returns the entries of a frame's result, with these ids; frames of videos have no image id."""
        entries = item.task.entries(item.result, item.path, self._ids.get(item.path, 1))
        if not item.is_picture:
            return [{k: v for k, v in entry.items() if k not in ("image_id", "file_name")} for entry in entries]
        annotated = self._annotated
        if annotated is None or item.path not in annotated.images or "image_id" not in (entries or [{}])[0]:
            return entries
        return [
            {
                **entry,
                "image_id": annotated.images[item.path],
                "category_id": annotated.categories.get(entry["label"].strip().casefold(), entry["category_id"]),
            }
            for entry in entries
        ]


def _numbers(pictures: Sequence[Path]) -> dict[Path, int]:
    """Returns the numbers at the end of the file names, if they are unique; else 1, 2, ..."""
    numbers = [re.search(r"\d+$", picture.stem) for picture in pictures]
    ids = [int(number[0]) for number in numbers if number]
    if len(set(ids)) < len(pictures):
        ids = list(range(1, len(pictures) + 1))
    return dict(zip(pictures, ids, strict=True))


class CocoList:
    """One JSON list of the results of all pictures, in COCO's results format for detectors."""

    def __init__(self, output: JsonOutput, ids: PictureIds) -> None:
        self._output = output
        self._ids = ids
        self._entries: list[dict[str, Any]] = []
        self._is_whole = False

    def add(self, item: Item) -> None:
        """See `Output.add`."""
        self._entries.extend(self._ids.entries(item))

    def end(self, source: Source) -> None:
        """See `Output.end`."""
        self._is_whole = True

    def close(self) -> None:
        """Writes the list, unless an error ended the command before a source had its end."""
        if self._is_whole:
            self._output.write(json.dumps(self._entries, indent=1))


class _Lines:
    """Writes lines to standard output and to a file, each as soon as there is a result.

    Raises:
        UsageError: the file cannot be written.
    """

    def __init__(self, output: JsonOutput) -> None:
        self._printed = output.printed
        self._path = output.file
        self._file: IO[str] | None = None
        if self._path is not None:
            self._replaced = self._path.exists()
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("w", encoding="utf-8")
            except OSError as e:
                raise UsageError(f"{self._path}: cannot be written: {e.strerror}", hint="choose another file") from e

    def write(self, line: str) -> None:
        if self._file is not None:
            self._file.write(f"{line}\n")
            self._file.flush()
        if self._printed:
            echo(line)
            sys.stdout.flush()  # also into a pipe

    def close(self) -> None:
        """Closes the file and says which one it is."""
        if self._file is not None and self._path is not None:
            self._file.close()
            self._file = None
            say_written(self._path, replaced=self._replaced)


class JsonLines:
    """A JSON object for each frame, on a line of its own, as soon as there is a result."""

    def __init__(self, output: JsonOutput, ids: PictureIds) -> None:
        self._ids = ids
        self._lines = _Lines(output)

    def add(self, item: Item) -> None:
        """See `Output.add`."""
        self._lines.write(json.dumps(_frame_object(item, self._ids)))

    def end(self, source: Source) -> None:
        """See `Output.end`."""

    def close(self) -> None:
        """Closes the file and says which one it is."""
        self._lines.close()


class FrameList:
    """One JSON list with an object for each frame, written as soon as there is a result: a camera has no end."""

    def __init__(self, output: JsonOutput, ids: PictureIds) -> None:
        self._ids = ids
        self._lines = _Lines(output)
        self._has_begun = False

    def add(self, item: Item) -> None:
        """See `Output.add`."""
        comma = "," if self._has_begun else ""
        self._begin()
        self._lines.write(f"{comma}{json.dumps(_frame_object(item, self._ids))}")

    def end(self, source: Source) -> None:
        """See `Output.end`."""
        self._begin()

    def close(self) -> None:
        """Ends the list, also after Ctrl-C or an error, so that what was written is JSON."""
        if self._has_begun:
            self._lines.write("]")
        self._lines.close()

    def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._lines.write("[")


def _frame_object(item: Item, ids: PictureIds) -> dict[str, Any]:
    frame = item.frame
    return {
        "source": frame.source,
        "frame": frame.index,
        "time": None if frame.time_s is None else round(frame.time_s, 4),
        "width": frame.pixels.shape[1],
        "height": frame.pixels.shape[0],
        "results": ids.entries(item),
    }
