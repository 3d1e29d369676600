from __future__ import annotations

import io
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.data.video.live import LiveStream
from edgekit.data.video.opening import source_of
from edgekit.errors import DataError, UsageError

pytest.importorskip("av")
from video_servers import FileServer, JpegServer, Server, request_from  # noqa: E402 - needs PyAV


class Guarded(Server):
    """Gives its picture to those who know the password."""

    def answer(self, connection: socket.socket) -> None:
        content, head = png(70), "HTTP/1.1 200 OK"
        if "Authorization: Basic bWU6c2VjcmV0" not in request_from(connection):  # "me:secret" in base 64
            content, head = b"", 'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="x"'
        connection.sendall(f"{head}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content)


class Missing(Server):
    """Knows no file."""

    def answer(self, connection: socket.socket) -> None:
        request_from(connection)
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), value, np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def test_a_picture_is_downloaded() -> None:
    with Guarded() as server:
        address = f"http://me:secret@127.0.0.1:{server.port}/photos/a.png?size=1"
        source = source_of(address)
        (frame,) = source.frames()
    assert not source.live and frame.time_s is None and frame.path == Path("a.png")
    assert frame.source == address.replace("secret", "***")
    assert (frame.pixels == 70).all() and frame.pixels.shape == (6, 8, 3)


def test_pictures_without_end_are_a_stream_though_their_name_is_that_of_one() -> None:
    with JpegServer() as server:
        source = source_of(f"http://127.0.0.1:{server.port}/image.jpg")
        assert isinstance(source, LiveStream) and source.live
        source.close()


@pytest.mark.parametrize(("name", "expected"), [("a.png", "expected a picture, got: Not Found"), ("a.mp4", "got: ")])
def test_error_on_a_file_that_the_server_does_not_have(name: str, expected: str) -> None:
    with Missing() as server, pytest.raises(DataError, match=expected):
        source_of(f"http://127.0.0.1:{server.port}/{name}")


def test_error_on_a_picture_that_is_none() -> None:
    with FileServer(b"<html>", cut_after=0, cuts=0) as server:
        source = source_of(f"http://127.0.0.1:{server.port}/a.png")
        with pytest.raises(DataError, match="expected an image"):
            list(source.frames())


def test_error_on_a_live_source_among_others(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("camera:0\nrtsp://host/cam\n")
    with pytest.raises(UsageError, match="expected one live source, or pictures and videos, got 2 sources"):
        source_of(tmp_path / "list.txt")


def test_closing_several_ends_them(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(png(1))
    source = source_of(tmp_path)
    frames = source.frames()
    assert next(frames).path == tmp_path / "a.png"
    source.close()
    assert list(frames) == []
