"""One frame with its result, as the outputs of ``edgekit run`` take it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from edgekit.data.video.source import Frame, Source
from edgekit.runtime.tasks.task import ImageTask, Shown

__all__ = ["Item", "NotedOnce", "Output"]


class NotedOnce:
    """Passes each message on once, however many frames it is about."""

    def __init__(self, note: Callable[[str], object]) -> None:
        self._note = note
        self._noted: set[str] = set()

    def __call__(self, text: str) -> None:
        """Notes a message."""
        if text not in self._noted:
            self._noted.add(text)
            self._note(text)


class Item:
    """A frame and its result.

    Args:
        task: the engine's task.
        source: the source of the frame.
        frame: the frame.
        result: the engine's result for it.
        seconds: how long the frame took, from decoding to the result.
        note: receives a message about what cannot be drawn.
    """

    def __init__(
        self, task: ImageTask[Any], source: Source, frame: Frame, result: Any, seconds: float, note: NotedOnce
    ) -> None:
        self.task = task
        self.source = source
        self.frame = frame
        self.result = result
        self.seconds = seconds
        self._note = note

    @property
    def path(self) -> Path:
        """The picture's file, or a path with the name of the video."""
        return self.frame.path or Path(self.frame.source)

    @property
    def is_picture(self) -> bool:
        """Whether the frame is a picture by itself, and not one of a video."""
        return self.frame.time_s is None

    @functools.cached_property
    def shown(self) -> Shown:
        """The result as text."""
        return self.task.shown(self.result)

    @functools.cached_property
    def drawn(self) -> Image.Image:
        """The frame with the result drawn into it."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            drawn = self.task.drawn(self.result, self.frame.pixels)
        for warning in caught:
            self._note(str(warning.message))
        assert drawn is not None  # the command has checked that the task draws
        return drawn


class Output(Protocol):
    """Something that ``edgekit run`` does with results."""

    def add(self, item: Item) -> None:
        """Takes the next frame and its result."""
        ...

    def end(self, source: Source) -> None:
        """Is told that a source has no more frames."""
        ...

    def close(self) -> None:
        """Finishes; also after an error and after Ctrl-C."""
        ...
