"""Saves pictures and videos into which ``edgekit run`` has drawn what it found."""

from __future__ import annotations

import threading
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

__all__ = ["Saver"]

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
