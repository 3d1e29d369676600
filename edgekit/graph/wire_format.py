"""The wire format of protobuf messages, for files whose weights are not to be copied through protobuf.

The format is that of https://protobuf.dev/programming-guides/encoding/, the field numbers are those of ``onnx.proto``.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

__all__ = [
    "BYTES",
    "EXTERNAL_DATA",
    "GRAPH",
    "INITIALIZER",
    "NAME",
    "RAW_DATA",
    "Field",
    "UnknownWireFormatError",
    "fields_of",
    "tag",
    "varint_bytes",
]

_VARINT, _FIXED64, BYTES, _FIXED32 = 0, 1, 2, 5
GRAPH = 7  # in ModelProto
INITIALIZER = 5  # in GraphProto
NAME, RAW_DATA, EXTERNAL_DATA = 8, 9, 13  # in TensorProto
_MAX_VARINT_BYTES = 10

Content: TypeAlias = "bytes | mmap.mmap"


class Field(NamedTuple):
    """A field of a message.

    Attributes:
        number: its number.
        kind: its wire type.
        start: offset of its tag.
        content: offset of its content, behind the tag and the length.
        end: offset behind it.
    """

    number: int
    kind: int
    start: int
    content: int
    end: int


class UnknownWireFormatError(Exception):
    """The bytes are no message, or one of a kind that ONNX does not use."""


def fields_of(content: Content, start: int, end: int) -> Iterator[Field]:
    """Yields the fields of the message between two offsets."""
    while start < end:
        key, begin = _varint(content, start, end)
        kind, number = key & 7, key >> 3
        if kind == _VARINT:
            stop = _varint(content, begin, end)[1]
        elif kind == BYTES:
            length, begin = _varint(content, begin, end)
            stop = begin + length
        elif kind in (_FIXED64, _FIXED32):
            stop = begin + (8 if kind == _FIXED64 else 4)
        else:
            raise UnknownWireFormatError
        if stop > end:
            raise UnknownWireFormatError
        yield Field(number, kind, start, begin, stop)
        start = stop


def _varint(content: Content, start: int, end: int) -> tuple[int, int]:
    """Reads a variable-length integer; returns it and the offset behind it."""
    value = shift = 0
    for position in range(start, min(end, start + _MAX_VARINT_BYTES)):
        byte = content[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
        shift += 7
    raise UnknownWireFormatError


def varint_bytes(value: int) -> bytes:
    """Encodes a variable-length integer."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def tag(number: int) -> bytes:
    """Returns the tag of a field of bytes."""
    return varint_bytes(number << 3 | BYTES)
