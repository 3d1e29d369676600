"""Saves what ``edgekit run`` has found: pictures and videos with boxes drawn, and YOLO's text files."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from edgekit.cli.run.items import Item, NotedOnce
from edgekit.cli.run.places import Places
from edgekit.cli.terminal import say_written
from edgekit.data.video.source import Source
from edgekit.data.video.writer import VideoWriter
from edgekit.errors import UsageError
from edgekit.runtime.channel import Channel, Ended
from edgekit.runtime.tracking.results import Boxed

__all__ = ["Saver", "YoloText", "check_text_folder"]

WAITING = 2
"""Frames that wait to be drawn and written."""


class Saver:
    """Draws results and writes them, in a thread of its own.

    Args:
        places: where to write.
        note: receives a message if the sound of a video cannot be copied.
    """

    def __init__(self, places: Places, note: NotedOnce) -> None:
        self._places = places
        self._note = note
        self._channel: Channel[Item | Source] = Channel(WAITING)
        self._writer: VideoWriter | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="edgekit-save", daemon=True)
        self._thread.start()

    def add(self, item: Item) -> None:
        """See `Output.add`."""
        if not self._channel.put(item):
            self._join()

    def end(self, source: Source) -> None:
        """See `Output.end`."""
        self._channel.put(source)

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
            UsageError: a file cannot be written.
        """
        self._channel.end()
        self._join()

    def _join(self) -> None:
        self._thread.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        try:
            try:
                while True:
                    self._write(self._channel.get())
            finally:
                self._finish_video()
        except Ended:
            pass
        except BaseException as e:  # raised again in the thread of the command
            self._error = e
            self._channel.cancel()

    def _write(self, item: Item | Source) -> None:
        if not isinstance(item, Item):
            self._finish_video()
            return
        path = self._places.of(item.frame.source)
        if item.is_picture:
            _write_image(item.drawn, path)
            return
        if self._writer is None:
            source = Path(item.frame.source)
            sound = source if source.is_file() and not item.source.live else None
            self._replaced = path.exists()
            self._writer = VideoWriter(path, frame_rate=item.source.frame_rate, sound_of=sound, note=self._note)
        assert item.frame.time_s is not None  # it is no picture
        self._writer.write(np.asarray(item.drawn), item.frame.time_s)

    def _finish_video(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            say_written(writer.path, replaced=self._replaced)


def _write_image(drawn: Image.Image, path: Path) -> None:
    replaced = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.save(path)
    except (OSError, ValueError) as e:
        raise UsageError(
            f"--save {path}: cannot be written: {getattr(e, 'strerror', None) or e}", hint="choose another file"
        ) from e
    say_written(path, replaced=replaced)


def check_text_folder(folder: Path, *, force: bool) -> None:
    """Checks the folder of `YoloText`: it may hold labels that somebody has drawn.

    Raises:
        UsageError: it is a file, or has text files and ``force`` is False.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--save-txt {folder}: expected a folder, got a file", hint="name a new folder")
    if not force and folder.is_dir() and any(folder.rglob("*.txt")):
        raise UsageError(
            f"--save-txt {folder}: expected a folder without text files, which could be replaced, got one with some",
            hint="choose another folder, or replace them with --force",
        )


class YoloText:
    """Writes the boxes of each frame to a text file in YOLO's form.

    A line is the class, then center x, center y, width and height of the box, relative to the size of the image; and
    the number of the track, if objects are tracked. A frame without objects has an empty file.

    Args:
        folder: where to write; the names of files are those of the pictures, or of the video and the frame.
        places: the sources' paths below the folder, by the names of the sources.
    """

    def __init__(self, folder: Path, places: Mapping[str, Path]) -> None:
        self._folder = folder
        self._places = places

    def add(self, item: Item) -> None:
        """See `Output.add`."""
        place = self._folder / self._places[item.frame.source]
        name = place.stem if item.is_picture else f"{place.stem}_{item.frame.index:06d}"
        path = place.with_name(f"{name}.txt")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_yolo_lines(item), encoding="utf-8")
        except OSError as e:
            raise UsageError(f"--save-txt {path}: cannot be written: {e.strerror}", hint="choose another folder") from e

    def end(self, source: Source) -> None:
        """See `Output.end`."""

    def close(self) -> None:
        """Says where the files are."""
        say_written(self._folder, replaced=False)


def _yolo_lines(item: Item) -> str:
    result = item.result
    assert isinstance(result, Boxed)  # the command has checked that
    height, width = item.frame.pixels.shape[:2]
    corners = result.boxes.astype(np.float64) / (width, height, width, height)
    centers, sizes = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    tracks = getattr(result, "tracks", None)
    ends = [""] * len(corners) if tracks is None else [f" {track}" for track in tracks.tolist()]
    rows = zip(result.classes.tolist(), np.concatenate([centers, sizes], axis=1).tolist(), ends, strict=True)
    return "".join(f"{kind} {' '.join(f'{value:.6f}' for value in box)}{end}\n" for kind, box, end in rows)
