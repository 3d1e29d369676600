"""Reads the structure of an ONNX file without its weights, so that reading needs memory for one copy of them only.

protobuf needs the whole file as one buffer and copies every field out of it, and onnx's checker makes a third copy.
Here the weights are skipped: what protobuf, the checker and the opset converter see has kilobytes. The wire format is
that of https://protobuf.dev/programming-guides/encoding/, the field numbers are those of ``onnx.proto``.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from edgekit.graph.external_weights import INLINE_BYTES

__all__ = ["Payload", "array_at", "structure_from_file"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_GRAPH = 7  # in ModelProto
_INITIALIZER = 5  # in GraphProto
_RAW_DATA, _EXTERNAL_DATA = 9, 13  # in TensorProto
_NO_RAW_DATA = bytes([_RAW_DATA << 3 | _BYTES, 0])
_MAX_VARINT_BYTES = 10


class Payload(NamedTuple):
    """The position of a weight's numbers in the file: little-endian, as ``TensorProto.raw_data``."""

    offset: int
    length: int


class _Field(NamedTuple):
    number: int
    kind: int
    start: int
    content: int
    end: int


class _UnknownWireFormatError(Exception):
    """The bytes are no message, or one of a kind that ONNX does not use."""


def structure_from_file(path: Path) -> tuple[onnx.ModelProto, dict[str, Payload]]:
    """Parses an ONNX file; the initializers of the main graph that are large stay in the file.

    Args:
        path: a file that is not empty.

    Returns:
        The model, in which these initializers have empty ``raw_data``; and the place of their numbers, by name.

    Raises:
        OSError: the file cannot be read.
        google.protobuf.message.DecodeError: it is not a protobuf message.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            structure, places = _without_weights(content)
        except _UnknownWireFormatError:
            return onnx.ModelProto.FromString(content[:]), {}  # protobuf decides
    model = onnx.ModelProto.FromString(structure)
    tensors = model.graph.initializer
    return model, {tensors[index].name: payload for index, payload in places.items()}


def array_at(path: Path, payload: Payload, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Reads a weight from the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file has become shorter, or ``shape`` has another number of elements.
    """
    return np.fromfile(path, dtype.newbyteorder("<"), payload.length // dtype.itemsize, offset=payload.offset).reshape(
        shape
    )


def _without_weights(content: mmap.mmap) -> tuple[bytes, dict[int, Payload]]:
    """Returns the message without large ``raw_data``; and their places, by the index of the initializer."""
    parts: list[bytes] = []
    places: dict[int, Payload] = {}
    count = 0
    for field in _fields(content, 0, len(content)):
        if (field.number, field.kind) != (_GRAPH, _BYTES):
            parts.append(content[field.start : field.end])
            continue
        graph, count = _graph_without_weights(content, field, places, count)
        parts += [_tag(_GRAPH), _varint_bytes(len(graph)), graph]
    return b"".join(parts), places


def _graph_without_weights(
    content: mmap.mmap, graph: _Field, places: dict[int, Payload], count: int
) -> tuple[bytes, int]:
    """Adds the places of the graph's weights to ``places``; ``count`` initializers came before, in another part."""
    parts: list[bytes] = []
    copied = graph.content  # what comes before is in `parts`
    for field in _fields(content, graph.content, graph.end):
        if (field.number, field.kind) != (_INITIALIZER, _BYTES):
            continue
        raw = _large_raw_data(content, field) if field.end - field.content > INLINE_BYTES else None
        if raw is not None:
            places[count] = Payload(raw.content, raw.end - raw.content)
            tensor = content[field.content : raw.start] + _NO_RAW_DATA + content[raw.end : field.end]
            parts += [content[copied : field.start], _tag(_INITIALIZER), _varint_bytes(len(tensor)), tensor]
            copied = field.end
        count += 1
    parts.append(content[copied : graph.end])
    return b"".join(parts), count


def _large_raw_data(content: mmap.mmap, tensor: _Field) -> _Field | None:
    """Returns the field with a tensor's numbers; None if it is small, or if there is not exactly one."""
    fields = list(_fields(content, tensor.content, tensor.end))
    raw = [field for field in fields if (field.number, field.kind) == (_RAW_DATA, _BYTES)]
    if len(raw) != 1 or any(field.number == _EXTERNAL_DATA for field in fields):
        return None
    return raw[0] if raw[0].end - raw[0].content > INLINE_BYTES else None


def _fields(content: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
    """Yields the fields of the message between two offsets."""
    while start < end:
        tag, begin = _varint(content, start, end)
        kind, number = tag & 7, tag >> 3
        if kind == _VARINT:
            stop = _varint(content, begin, end)[1]
        elif kind == _BYTES:
            length, begin = _varint(content, begin, end)
            stop = begin + length
        elif kind in (_FIXED64, _FIXED32):
            stop = begin + (8 if kind == _FIXED64 else 4)
        else:
            raise _UnknownWireFormatError
        if stop > end:
            raise _UnknownWireFormatError
        yield _Field(number, kind, start, begin, stop)
        start = stop


def _varint(content: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """Reads a variable-length integer; returns it and the offset behind it."""
    value = shift = 0
    for position in range(start, min(end, start + _MAX_VARINT_BYTES)):
        byte = content[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
        shift += 7
    raise _UnknownWireFormatError


def _varint_bytes(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _tag(number: int) -> bytes:
    return _varint_bytes(number << 3 | _BYTES)
