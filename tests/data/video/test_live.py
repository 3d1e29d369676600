from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgekit.data.video.containers import open_container
from edgekit.data.video.live import LiveStream, camera
from edgekit.data.video.opening import source_of
from edgekit.data.video.source import Frame, Source
from edgekit.errors import DataError

av = pytest.importorskip("av")
from video_servers import FileServer, JpegServer, RtspServer, Server  # noqa: E402 - needs PyAV


def taken(frames: Iterator[Frame], count: int) -> list[Frame]:
    return [next(frames) for _ in range(count)]


def test_a_stream_that_ends_is_opened_again(write_video: Callable[..., Path]) -> None:
    path = write_video(frames=3)
    attempts, notes = [], list[str]()

    def connect():
        attempts.append(time.monotonic())
        if len(attempts) in (2, 3):
            raise DataError("cam: refused")
        return open_container(f"file:{path}", name="cam")

    stream = LiveStream(connect, name="cam", note=notes.append, first_delay_s=0.02)
    assert isinstance(stream, Source) and stream.live and stream.frame_rate == 10.0
    frames = stream.frames()
    found = taken(frames, 6)
    assert [frame.index for frame in found] == list(range(6))
    times = [frame.time_s for frame in found]
    assert times == sorted(times) and times[0] == 0.0
    assert stream.reconnects == 1
    assert notes == [
        "cam: lost the connection: the stream ended",
        "cam: refused; trying again until it is back",
        "cam: connected again",
    ]
    delays = [after - before for before, after in zip(attempts[1:], attempts[2:], strict=False)]
    assert delays[0] >= 0.04 and delays[1] >= 0.08  # twice as long each time
    frames.close()


def test_closing_ends_the_wait_for_a_server_that_is_gone(write_video: Callable[..., Path]) -> None:
    first = open_container(f"file:{write_video(frames=1)}", name="cam")

    def connect():
        raise DataError("cam: refused")

    stream = LiveStream(connect, name="cam", first=first, first_delay_s=30)
    threading.Timer(0.1, stream.close).start()
    start = time.monotonic()
    assert len(list(stream.frames())) == 1
    assert time.monotonic() - start < 5


def test_a_wrong_address_is_an_error_at_once() -> None:
    with Server() as server:
        port = server.port
    for address in (f"rtsp://me:secret@127.0.0.1:{port}/cam", f"http://127.0.0.1:{port}/video"):
        with pytest.raises(DataError, match="expected a video, got") as error:
            source_of(address)
        assert "secret" not in error.value.message


@pytest.mark.parametrize("kind", [JpegServer, RtspServer])
def test_a_server_that_comes_back_is_watched_again(kind: type[JpegServer] | type[RtspServer]) -> None:
    notes: list[str] = []
    with kind() as server:
        source = source_of(server.address, note=notes.append)
        assert isinstance(source, LiveStream)
        source._first_delay_s = 0.05
        frames = source.frames()
        before = taken(frames, 5)
        server.stop()
        threading.Timer(0.2, server.start).start()
        after = taken(frames, 20)
        source.close()
        frames.close()
    assert [frame.index for frame in [*before, *after]] == list(range(25))
    assert {frame.pixels.shape for frame in after} == {(48, 64, 3)}
    assert source.reconnects == 1 and server.connections >= 2
    assert any("lost the connection" in text for text in notes) and notes[-1].endswith("connected again")
    # Brightness tells which picture of the server it is: a multiple of 10.
    assert all(frame.pixels.std() < 3 for frame in after)


def test_a_download_that_is_cut_off_continues_where_it_ended(write_video: Callable[..., Path]) -> None:
    content = write_video("video.ts", frames=60, codec="mpeg2video", rate=25).read_bytes()
    with FileServer(content, cut_after=len(content) // 2) as server:
        source = source_of(server.address)
        assert not source.live
        frames = list(source.frames())
    assert len(frames) == 60
    assert [frame.index for frame in frames] == list(range(60))
    assert len(server.ranges) > 1 and max(server.ranges) > 0


def test_error_on_a_camera_that_is_not_there() -> None:
    with pytest.raises(DataError, match=r"camera:77: expected a camera at /dev/video77, got none there"):
        camera("77", name="camera:77")
    with pytest.raises(DataError, match="/dev/none"):
        source_of("camera:/dev/none")
