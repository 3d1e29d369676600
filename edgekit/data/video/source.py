"""The protocol of sources, and the frames that they give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

__all__ = ["Frame", "Note", "Source", "ignored"]

Note = Callable[[str], object]
"""Receives a message about a source, such as that a picture was skipped or a connection was lost."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A decoded picture.

    Attributes:
        pixels: RGB; uint8, shape ``(H, W, 3)``.
        index: number of the frame in its source, from 0. Frames that a live source drops are counted.
        time_s: presentation time in s from the first frame; of a live source, the time of its arrival. None for a
            picture.
        source: the source, as the user named it: a path, an address, a device.
        path: the file of a picture; None for a frame of a video.
    """

    pixels: np.ndarray
    index: int
    time_s: float | None
    source: str
    path: Path | None = None


@runtime_checkable
class Source(Protocol):
    """Something that gives frames in order.

    Attributes:
        name: the source, as the user named it.
        live: whether frames come at their own pace, so that old ones are dropped rather than delayed.
        frame_rate: frames per second; None if it is unknown, or if the source has pictures.
    """

    @property
    def name(self) -> str: ...

    @property
    def live(self) -> bool: ...

    @property
    def frame_rate(self) -> float | None: ...

    def frames(self) -> Iterator[Frame]:
        """Yields the frames; one thread calls it, once.

        Raises:
            DataError: the source cannot be read.
        """
        ...

    def close(self) -> None:
        """Ends `frames` soon, from any thread; frees what the source has open once `frames` has ended."""
        ...


def ignored(text: str) -> None:
    """A `Note` that ignores messages."""
