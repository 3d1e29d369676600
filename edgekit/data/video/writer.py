"""Writes a video, and copies the sound of the video that its frames came from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.data.video.containers import open_container, reason_of
from edgekit.data.video.source import Note, ignored
from edgekit.errors import UsageError, needs_extra
from edgekit.storage import atomic_file

if TYPE_CHECKING:
    from av.container import OutputContainer

__all__ = ["WRITTEN_SUFFIXES", "VideoWriter"]

_ENCODERS: dict[str, tuple[tuple[str, dict[str, str]], ...]] = {
    "h264": (("libx264", {"preset": "veryfast", "crf": "21"}), ("libopenh264", {}), ("mpeg4", {"qscale": "3"})),
    "vp9": (("libvpx-vp9", {"deadline": "realtime", "cpu-used": "6", "crf": "30", "b": "0"}), ("libvpx", {})),
    "mpeg4": (("mpeg4", {"qscale": "3"}),),
}
"""Encoders in order of preference, with options for a good picture at the speed of a camera."""

_FAMILY = {".mp4": "h264", ".m4v": "h264", ".mov": "h264", ".mkv": "h264", ".webm": "vp9", ".avi": "mpeg4"}

WRITTEN_SUFFIXES = tuple(_FAMILY)
"""Suffixes of videos that `VideoWriter` writes."""

_TICK = Fraction(1, 90_000)
"""Times of frames are whole numbers of this many s, in which a frame of the usual rates takes a whole number too."""
_DEFAULT_RATE = 30.0
_MAX_RATE = 1000.0
"""What streams say beyond it is the resolution of their clock."""


class VideoWriter:
    """A video that is written frame by frame; a context manager that finishes the file.

    It is written beside its place and renamed into it at the end, so that a source may be replaced by itself.

    Args:
        path: the file; its suffix chooses the format. Missing folders are created.
        frame_rate: frames per second that the encoder plans for; each frame is shown at its own time.
        sound_of: video file whose sound is copied, as it is; None for no sound.
        note: receives a message if the sound cannot be copied.

    Raises:
        BackendUnavailable: PyAV is not installed.
        UsageError: the suffix is not one of `WRITTEN_SUFFIXES`, or the file cannot be written.
    """

    def __init__(
        self, path: Path, *, frame_rate: float | None = None, sound_of: Path | None = None, note: Note = ignored
    ) -> None:
        with needs_extra("writing a video", "video"):
            import av  # an extra: most machines and commands do without it
        if path.suffix.lower() not in _FAMILY:
            raise UsageError(f"{path}: expected a name that ends in {', '.join(_FAMILY)}, got '{path.suffix}'")
        self.path = path
        self._av = av
        self._rate = frame_rate if frame_rate and frame_rate <= _MAX_RATE else _DEFAULT_RATE
        self._note = note
        self._place = ExitStack()
        self._sound: _Sound | None = None
        self._stream: Any = None
        self._tick = _TICK
        self._last_tick = -1
        with self._translated(), ExitStack() as stack:
            beside = stack.enter_context(atomic_file(path))
            self._container: OutputContainer | None = av.open(f"file:{beside}", "w", format=self._format())
            if sound_of is not None:
                self._sound = _Sound(sound_of, note)
            self._place = stack.pop_all()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _format(self) -> str:
        names = {".mkv": "matroska", ".m4v": "mp4"}
        suffix = self.path.suffix.lower()
        return names.get(suffix, suffix.removeprefix("."))

    def write(self, pixels: np.ndarray, time_s: float) -> None:
        """Writes a frame.

        Args:
            pixels: RGB; uint8, shape ``(H, W, 3)``. A frame of another size than the first is scaled to that.
            time_s: when it is shown, in s from the first frame.

        Raises:
            UsageError: the file cannot be written.
        """
        if self._stream is None:
            self._begin(pixels)
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        # A frame that is late by less than a tick still comes after the one before it.
        self._last_tick = max(self._last_tick + 1, round(time_s / self._tick))
        frame.pts, frame.time_base = self._last_tick, self._tick
        assert self._container is not None  # the video is open
        with self._translated():
            self._container.mux(self._stream.encode(frame))
            if self._sound is not None:
                self._container.mux(list(self._sound.until(time_s)))

    def _begin(self, pixels: np.ndarray) -> None:
        assert self._container is not None
        height, width = pixels.shape[:2]
        encoder, options = self._encoder()
        rate = Fraction(self._rate).limit_denominator(1001)
        self._stream = self._container.add_stream(encoder, rate=rate, options=options)
        # In 4:2:0, two by two pixels share their colour.
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        # MPEG-4 part 2 has 16 bits for the ticks of a second, and AVI one tick for each frame.
        self._tick = 1 / rate if encoder == "mpeg4" else _TICK
        self._stream.codec_context.time_base = self._tick
        if self._sound is not None and not self._sound.join(self._container):
            self._sound = None

    def _encoder(self) -> tuple[str, dict[str, str]]:
        candidates = _ENCODERS[_FAMILY[self.path.suffix.lower()]]
        for name, options in candidates:
            try:
                self._av.Codec(name, "w")
            except ValueError:  # this FFmpeg was built without it
                continue
            return name, options
        raise UsageError(
            f"{self.path}: expected an FFmpeg with the encoder {' or '.join(name for name, _ in candidates)}, got "
            "none of them",
            hint="choose a name that ends in .avi, or install PyAV's own package: pip install av",
        )

    def close(self) -> None:
        """Finishes the file; without a frame, there is none. A second call does nothing."""
        container, self._container = self._container, None
        if container is None:
            return
        with suppress(_Nothing), self._translated(), ExitStack() as stack:
            stack.push(self._place)  # renames the file if nothing below fails, and removes it otherwise
            if self._sound is not None:
                stack.callback(self._sound.close)
            stack.callback(container.close)
            if self._stream is None:
                raise _Nothing
            container.mux(self._stream.encode(None))
            if self._sound is not None:
                container.mux(list(self._sound.until(float(self._last_tick * self._tick) + 1 / self._rate)))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (self._av.FFmpegError, OSError) as e:
            raise UsageError(f"{self.path}: cannot be written: {reason_of(e)}", hint="choose another file") from e


class _Nothing(Exception):
    """No frame was written, so there is no video."""


class _Sound:
    """The sound of a video, packet by packet.

    Args:
        path: the video's file.
        note: receives a message if the sound cannot be copied.
    """

    def __init__(self, path: Path, note: Note) -> None:
        self._name = str(path)
        self._note = note
        self._container = open_container(f"file:{path}", name=str(path))
        self._out: Any = None
        self._packets: Iterator[Any] = iter(())
        self._waiting: Any = None

    def join(self, container: OutputContainer) -> bool:
        """Adds the sound to a video; returns whether there is one that the video's format takes."""
        audio = next(iter(self._container.streams.audio), None)
        if audio is None:
            return False
        name = audio.codec_context.codec.canonical_name
        if name not in container.supported_codecs:
            format = container.format.name
            self._note(f"{self._name}: its sound is left out, since a file in {format} cannot have {name}")
            return False
        self._out = container.add_stream_from_template(audio)
        video = self._container.streams.video[0]
        start_s = float((video.start_time or 0) * (video.time_base or 0))
        self._packets = self._shifted(audio, start_s)
        return True

    def _shifted(self, audio: Any, start_s: float) -> Iterator[Any]:
        """Yields the packets, with times from the first frame of the pictures."""
        shift = round(start_s / audio.time_base)
        for packet in self._container.demux(audio):
            if packet.dts is None:  # the end
                return
            packet.pts = packet.dts = packet.dts - shift
            if packet.pts >= 0:
                packet.stream = self._out
                yield packet

    def until(self, time_s: float) -> Iterator[Any]:
        """Yields the packets that begin up to a time."""
        while (packet := self._waiting or next(self._packets, None)) is not None:
            self._waiting = packet
            if float(packet.pts * packet.time_base) > time_s:
                return
            self._waiting = None
            yield packet

    def close(self) -> None:
        """Closes the file."""
        self._container.close()
