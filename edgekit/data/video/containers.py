"""Opens and decodes videos with PyAV, whose exceptions become `DataError` here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import DataError, needs_extra

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

__all__ = ["Decoder", "frame_rate_of", "is_endless", "open_container", "reason_of"]

NETWORK_TIMEOUT_S = 5.0
"""A server that sends nothing for so long is taken for lost."""

_USUAL_RATE = 25.0
"""FFmpeg's own default, of a bare stream of pictures without times."""


def open_container(
    place: Any, *, name: str, format: str | None = None, options: dict[str, str] | None = None, network: bool = False
) -> InputContainer:
    """Opens a video for reading.

    Args:
        place: an address in FFmpeg's form, or a binary file object.
        name: the source's name in messages.
        format: FFmpeg's name of the format; None to recognize it.
        options: FFmpeg's options of the protocol and the format.
        network: give up after `NETWORK_TIMEOUT_S` without data.

    Raises:
        BackendUnavailable: PyAV is not installed.
        DataError: the video cannot be opened.
    """
    with needs_extra("reading a video", "video"):
        import av  # an extra: most machines and commands do without it
    timeout = (2 * NETWORK_TIMEOUT_S, NETWORK_TIMEOUT_S) if network else None
    try:
        container: InputContainer = av.open(place, "r", format=format, options=dict(options or {}), timeout=timeout)
    except (av.FFmpegError, OSError, ValueError) as e:
        raise DataError(f"{name}: expected a video, got: {reason_of(e)}") from e
    if not container.streams.video:
        container.close()
        raise DataError(f"{name}: expected a video, got a file without pictures")
    return container


def frame_rate_of(container: InputContainer) -> float | None:
    """Returns the frames per second that a container says its first video has; None if it does not."""
    stream = container.streams.video[0]
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else None


def is_endless(container: InputContainer) -> bool:
    """Whether a container on a network has neither a duration nor a size: a live stream."""
    return container.duration is None and (container.size <= 0 or "hls" in container.format.name)


def reason_of(error: BaseException) -> str:
    """Returns why FFmpeg failed, in its words."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text)[:1].lower() + str(text)[1:]


class Decoder:
    """Decodes the first video of a container to RGB, upright.

    Args:
        container: the open container; the caller closes it.
        name: the source's name in messages.
        stopped: returns whether to end.
        live: decode each frame as soon as it comes; otherwise several at once, which is faster.

    Attributes:
        broken: number of packets that could not be decoded: of a damaged file, or before the first key frame of a
            stream that was joined in the middle.
        ended_early: why reading ended before the end of the container; empty if it did not.
    """

    def __init__(
        self, container: InputContainer, *, name: str, stopped: Callable[[], bool], live: bool = False
    ) -> None:
        self.broken = 0
        self.ended_early = ""
        self._container = container
        self._name = name
        self._stopped = stopped
        self._stream: VideoStream = container.streams.video[0]
        self._stream.thread_type = "SLICE" if live else "AUTO"
        self._first_s: float | None = None

    def frames(self) -> Iterator[tuple[np.ndarray, float]]:
        """Yields each frame: RGB, uint8 ``(H, W, 3)``, and its time in s from the first one."""
        import av  # it was imported when the container was opened

        count = 0
        try:
            for packet in self._container.demux(self._stream):
                if self._stopped():
                    return
                try:
                    decoded = packet.decode()
                except av.error.InvalidDataError:
                    self.broken += 1
                    continue
                for frame in decoded:
                    yield _upright(frame), self._time(frame, count)
                    count += 1
        except (av.FFmpegError, OSError) as e:
            self.ended_early = reason_of(e)

    def _time(self, frame: Any, count: int) -> float:
        if frame.time is None:  # a bare stream of H.264 or JPEG has no times
            return count / (frame_rate_of(self._container) or _USUAL_RATE)
        if self._first_s is None:
            self._first_s = float(frame.time)
        return float(frame.time) - self._first_s


def _upright(frame: Any) -> np.ndarray:
    """Converts a frame to RGB and turns it as its container says, as those of telephones do."""
    pixels: np.ndarray = frame.to_ndarray(format="rgb24")
    quarters = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, quarters)) if quarters else pixels
