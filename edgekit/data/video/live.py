"""Cameras and network streams as a source: reconnects when the connection is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.data.video.containers import Decoder, frame_rate_of, open_container
from edgekit.data.video.source import Frame, Note, ignored
from edgekit.errors import DataError

if TYPE_CHECKING:
    from av.container import InputContainer

__all__ = ["LiveStream", "camera", "network_stream"]

FIRST_DELAY_S = 0.5
MAX_DELAY_S = 10.0
"""The delay before connecting again doubles from the first to this."""

# TCP loses no packets; a frame that is late is worth nothing, so FFmpeg keeps no buffer.
RTSP_OPTIONS = {"rtsp_transport": "tcp", "fflags": "nobuffer", "allowed_media_types": "video"}


class LiveStream:
    """A source whose frames come at their own pace.

    It connects when it is made, so that a wrong address is an error at once. A connection that is lost later is
    opened again, after a delay that doubles from 0.5 to 10 s, until `close`.

    Args:
        connect: opens the container.
        first: the container of the first connection, if it is open already.
        name: the source, as the user named it.
        note: receives a message when the connection is lost, and when it is back.
        first_delay_s: delay before the first attempt to connect again.

    Attributes:
        reconnects: how often the connection was opened again.

    Raises:
        BackendUnavailable: PyAV is not installed.
        DataError: the source cannot be opened.
    """

    live = True

    def __init__(
        self,
        connect: Callable[[], InputContainer],
        *,
        name: str,
        first: InputContainer | None = None,
        note: Note = ignored,
        first_delay_s: float = FIRST_DELAY_S,
    ) -> None:
        self.name = name
        self.reconnects = 0
        self._connect = connect
        self._note = note
        self._first_delay_s = first_delay_s
        self._closed = threading.Event()
        self._is_away = False
        self._lock = threading.Lock()
        container = first or connect()
        self.frame_rate = frame_rate_of(container)
        self._first: InputContainer | None = container

    def frames(self) -> Iterator[Frame]:
        """See `Source.frames`."""
        index, start_s, delay_s = 0, None, self._first_delay_s
        while not self._closed.is_set():
            container = self._taken_first() or self._connected_again(delay_s)
            if container is None:
                delay_s = min(2 * delay_s, MAX_DELAY_S)
                continue
            decoder = Decoder(container, name=self.name, stopped=self._closed.is_set, live=True)
            try:
                for pixels, _ in decoder.frames():
                    now_s = time.monotonic()
                    start_s = now_s if start_s is None else start_s
                    yield Frame(pixels, index, now_s - start_s, self.name)
                    index += 1
                    delay_s = self._first_delay_s
            finally:
                container.close()
            if not self._closed.is_set():
                self._note(f"{self.name}: lost the connection: {decoder.ended_early or 'the stream ended'}")

    def _connected_again(self, delay_s: float) -> InputContainer | None:
        """Waits and opens the source again; None if it cannot be opened, or `close` was called."""
        if self._closed.wait(delay_s):
            return None
        try:
            container = self._connect()
        except DataError as e:
            if not self._is_away:
                self._note(f"{e.message}; trying again until it is back")
            self._is_away = True
            return None
        self._is_away = False
        self.reconnects += 1
        self._note(f"{self.name}: connected again")
        return container

    def _taken_first(self) -> InputContainer | None:
        with self._lock:
            container, self._first = self._first, None
        return container

    def close(self) -> None:
        """See `Source.close`."""
        self._closed.set()
        container = self._taken_first()
        if container is not None:  # `frames` never ran
            container.close()


def network_stream(address: str, *, name: str, first: InputContainer | None = None, note: Note = ignored) -> LiveStream:
    """Opens an ``rtsp://`` stream, or an ``http://`` stream without end.

    Args:
        address: the address.
        name: the address in messages, without a password.
        first: the container of the first connection, if it is open already.
        note: receives a message when the connection is lost, and when it is back.

    Raises:
        BackendUnavailable: PyAV is not installed.
        DataError: the stream cannot be opened.
    """
    options = RTSP_OPTIONS if address.lower().startswith(("rtsp:", "rtsps:")) else {}

    def connect() -> InputContainer:
        return open_container(address, name=name, options=options, network=True)

    return LiveStream(connect, first=first, name=name, note=note)


def camera(device: str, *, name: str, note: Note = ignored) -> LiveStream:
    """Opens a camera of Video4Linux.

    Args:
        device: a number, as in ``0`` for ``/dev/video0``, or a device file.
        name: the source, as the user named it.
        note: receives a message when the camera is lost and when it is back.

    Raises:
        DataError: there is no such camera, or another program uses it.
    """
    path = Path(f"/dev/video{device}" if device.isdecimal() else device)
    if not path.exists():
        found = sorted(str(each) for each in Path("/dev").glob("video*"))
        raise DataError(
            f"{name}: expected a camera at {path}, got none there",
            hint=f"cameras here: {', '.join(found)}" if found else "no camera is connected, or its driver is missing",
        )

    def connect() -> InputContainer:
        return open_container(str(path), name=name, format="v4l2", network=True)

    return LiveStream(connect, name=name, note=note)
