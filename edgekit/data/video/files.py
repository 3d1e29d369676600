"""Video files as a source: every frame, in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.data.video.containers import Decoder, frame_rate_of, open_container
from edgekit.data.video.source import Frame, Note, ignored
from edgekit.errors import DataError

if TYPE_CHECKING:
    from av.container import InputContainer

__all__ = ["VIDEO_SUFFIXES", "VideoFile", "video_file"]

VIDEO_SUFFIXES = tuple(
    ".3gp .264 .265 .asf .avi .flv .h264 .h265 .hevc .ivf .m2ts .m4v .mjpeg .mjpg .mkv .mov .mp4 .mpeg .mpg .mts .mxf "
    ".ogv .ts .vob .webm .wmv .y4m".split()
)
"""Suffixes of video files, in lower case."""


def video_file(place: Path | Any, *, name: str, note: Note = ignored) -> VideoFile:
    """Opens a video in a file, or in a binary file object such as standard input.

    Raises:
        BackendUnavailable: PyAV is not installed.
        DataError: the video cannot be opened.
    """
    # Without its prefix, FFmpeg takes a name such as "a:b.mp4" for that of a protocol.
    where = f"file:{place}" if isinstance(place, Path) else place
    return VideoFile(open_container(where, name=name), name=name, note=note)


class VideoFile:
    """A video with an end, whose frames are all read.

    Args:
        container: the open container; it is closed when the frames end.
        name: the source, as the user named it.
        note: receives a message if the video is damaged.

    Attributes:
        frame_count: number of frames, as the container says; None if it does not.
    """

    live = False

    def __init__(self, container: InputContainer, *, name: str, note: Note = ignored) -> None:
        self.name = name
        self.frame_rate = frame_rate_of(container)
        self.frame_count: int | None = container.streams.video[0].frames or None
        self._note = note
        self._closed = False
        self._container = container
        self._decoder = Decoder(container, name=name, stopped=lambda: self._closed)

    def frames(self) -> Iterator[Frame]:
        """See `Source.frames`."""
        index = -1
        try:
            for index, (pixels, time_s) in enumerate(self._decoder.frames()):
                yield Frame(pixels, index, time_s, self.name)
        finally:
            self._container.close()
        self._say_what_is_damaged(index + 1)

    def _say_what_is_damaged(self, count: int) -> None:
        why, broken = self._decoder.ended_early, self._decoder.broken
        if count == 0 and not self._closed:
            raise DataError(f"{self.name}: expected frames, got none that can be decoded{f': {why}' if why else ''}")
        if why:
            self._note(f"{self.name}: reading ended after {count} frames: {why}")
        if broken:
            self._note(f"{self.name}: {broken} damaged packet{'s were' if broken > 1 else ' was'} skipped")

    def close(self) -> None:
        """See `Source.close`."""
        self._closed = True
