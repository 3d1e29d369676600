"""What comes from standard input: a picture, a video, or a list of sources."""

from __future__ import annotations

import re
import sys
from typing import IO, NamedTuple

from PIL import Image

from edgekit.data.formats.text_lines import utf8_bytes
from edgekit.data.images import NOT_DECODED
from edgekit.errors import DataError

__all__ = ["Encoded", "Joined", "content_of_stdin", "is_encoded_picture"]

# Ends of lines, tabs, and bytes that are not UTF-8.
_NOT_PRINTED = re.compile("[\n\r\t\udc80-\udcff]")
_START_BYTES = 4096
_MAX_PICTURE_BYTES = 1 << 30


class Encoded(NamedTuple):
    """The bytes of a picture's file."""

    content: bytes


class Joined:
    """A binary file object that gives bytes that were read already, then the rest of a stream."""

    def __init__(self, start: bytes, rest: IO[bytes]) -> None:
        self._start = start
        self._rest = rest

    def read(self, size: int = -1) -> bytes:
        """Reads up to ``size`` bytes; all if it is negative."""
        if size < 0:
            taken, self._start = self._start, b""
            return taken + self._rest.read()
        if self._start:
            taken, self._start = self._start[:size], self._start[size:]
            return taken
        return self._rest.read(size)


def content_of_stdin() -> Encoded | Joined | str:
    """Reads standard input: a picture whole, a list of sources as a text, a video as a file object.

    Raises:
        DataError: it is empty.
    """
    stream = sys.stdin.buffer
    start = stream.read(_START_BYTES)
    if not start:
        raise DataError("-: expected a picture, a video or a list of sources on standard input, got nothing")
    if is_encoded_picture(start):
        return Encoded(start + stream.read(_MAX_PICTURE_BYTES))
    if len(start) < _START_BYTES or _as_text(start[: start.rfind(b"\n") + 1]):
        text = _as_text(start if len(start) < _START_BYTES else start + stream.read())
        if text:
            return text
    return Joined(start, stream)


def is_encoded_picture(start: bytes) -> bool:
    """Whether the first bytes of a file are those of an image format that Pillow decodes."""
    Image.init()
    for name in Image.ID:
        accept = Image.OPEN[name][1]
        # Formats without a signature are recognized by their suffix only.
        if name not in NOT_DECODED and accept is not None and accept(start[:16]) is True:
            return True
    return False


def _as_text(content: bytes) -> str:
    """Returns the content as a text; empty if it is not one, as that of a video."""
    text = utf8_bytes(content).decode("utf-8", "surrogateescape")  # names of files may be any bytes
    return text if _NOT_PRINTED.sub("", text).isprintable() else ""
