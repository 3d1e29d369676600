"""Servers of live video on the loopback device, which can be stopped and started again at their port."""

from __future__ import annotations

import io
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator

import numpy as np
from PIL import Image

FRAME_RATE = 50


class Server:
    """Answers each connection in a thread of its own."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self) -> None:
        """Ends all connections, and refuses new ones."""
        for each in (self._listener, *self._open):
            if each is not None:
                try:
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # the other side was faster
                each.close()
        self._listener, self._open = None, []

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._answered, args=(connection,), daemon=True).start()

    def _answered(self, connection: socket.socket) -> None:
        try:
            self.answer(connection)
        except OSError:
            return  # the client has gone, or `stop` was called
        finally:
            connection.close()

    def answer(self, connection: socket.socket) -> None:
        raise NotImplementedError


def request_from(connection: socket.socket) -> str:
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        received = connection.recv(1)
        if not received:
            raise OSError("closed")
        # A client may send reports of RTP in between.
        if request == b"" and received == b"$":
            _, length = struct.unpack(">BH", connection.recv(3, socket.MSG_WAITALL))
            connection.recv(length, socket.MSG_WAITALL)
            continue
        request += received
    return request.decode()


class JpegServer(Server):
    """Sends JPEG pictures without end, as web cameras do; picture ``i`` has the brightness ``10 * i``."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/video"

    def answer(self, connection: socket.socket) -> None:
        request_from(connection)
        head = "HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=part\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        for index in range(10**6):
            buffer = io.BytesIO()
            Image.fromarray(np.full((48, 64, 3), 10 * index % 250, np.uint8)).save(buffer, "jpeg")
            content = buffer.getvalue()
            part = f"--part\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
            connection.sendall(part.encode() + content + b"\r\n")
            time.sleep(1 / FRAME_RATE)


class FileServer(Server):
    """Sends a file; each connection but the last is cut off after some bytes.

    Attributes:
        ranges: where the client wanted each answer to begin.
    """

    def __init__(self, content: bytes, *, cut_after: int, cuts: int = 1) -> None:
        super().__init__()
        self.ranges: list[int] = []
        self._content, self._cut_after, self._cuts = content, cut_after, cuts

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/video.ts"

    def answer(self, connection: socket.socket) -> None:
        found = re.search(r"Range: bytes=(\d+)-", request_from(connection))
        first = int(found[1]) if found else 0
        self.ranges.append(first)
        size = len(self._content)
        head = (
            f"HTTP/1.1 206 Partial Content\r\nContent-Length: {size - first}\r\nAccept-Ranges: bytes\r\n"
            f"Content-Range: bytes {first}-{size - 1}/{size}\r\nConnection: close\r\n\r\n"
        )
        end = size
        if self._cuts:
            self._cuts -= 1
            end = first + self._cut_after
        connection.sendall(head.encode() + self._content[first:end])


class RtspServer(Server):
    """Sends H.264 over RTSP (RFC 2326), interleaved with the requests; joined in the middle of a group of pictures."""

    def __init__(self) -> None:
        super().__init__()
        self._pictures = list(_encoded_pictures())

    @property
    def address(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/cam"

    def answer(self, connection: socket.socket) -> None:
        description = (
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\na=control:*\r\n"
            "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:track\r\n"
        )
        while True:
            request = request_from(connection)
            method = request.split()[0]
            number = re.search(r"CSeq: *(\d+)", request, re.IGNORECASE)
            assert number is not None
            head, body = "", ""
            if method == "OPTIONS":
                head = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            elif method == "DESCRIBE":
                body = description
                head = f"Content-Type: application/sdp\r\nContent-Base: {self.address}/\r\n"
            elif method == "SETUP":
                head = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
            elif method == "PLAY":
                head = "Session: 1\r\n"
            if body:
                head += f"Content-Length: {len(body)}\r\n"
            connection.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {number[1]}\r\n{head}\r\n{body}".encode())
            if method == "PLAY":
                threading.Thread(target=self._listen, args=(connection,), daemon=True).start()
                self._play(connection)

    def _listen(self, connection: socket.socket) -> None:
        try:
            while True:
                request_from(connection)
        except OSError:
            connection.close()

    def _play(self, connection: socket.socket) -> None:
        sequence = 0
        for index in range(3, 10**6):  # not from a key frame
            units = self._pictures[index % len(self._pictures)]
            for place, unit in enumerate(units):
                last = place == len(units) - 1
                header = struct.pack(">BBHII", 0x80, 96 | 0x80 * last, sequence % 65536, index * 90000 // FRAME_RATE, 7)
                packet = header + unit
                connection.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                sequence += 1
            time.sleep(1 / FRAME_RATE)


def _encoded_pictures() -> Iterator[list[bytes]]:
    """Yields the units of each of 20 pictures in H.264, the first of which is a key frame."""
    import av

    codec = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt, codec.framerate = 64, 48, "yuv420p", FRAME_RATE
    codec.options = {"tune": "zerolatency", "g": "20", "preset": "ultrafast"}
    packets = []
    for index in range(20):
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * index, np.uint8), "rgb24")
        frame.pts = index
        packets += codec.encode(frame)
    packets += codec.encode(None)
    for packet in packets:
        yield [unit for unit in re.split(b"\0\0\0?\1", bytes(packet)) if unit]
