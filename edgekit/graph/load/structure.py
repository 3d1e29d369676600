"""Reads the structure of an ONNX file without its weights, so that reading needs memory for one copy of them only.

protobuf needs the whole file as one buffer and copies every field out of it, and onnx's checker makes a third copy.
Here the weights are skipped: what protobuf, the checker and the opset converter see has kilobytes.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from edgekit.graph.external_weights import INLINE_BYTES
from edgekit.graph.wire_format import (
    BYTES,
    EXTERNAL_DATA,
    GRAPH,
    INITIALIZER,
    RAW_DATA,
    Field,
    UnknownWireFormatError,
    fields_of,
    tag,
    varint_bytes,
)

__all__ = ["Payload", "array_at", "structure_from_file"]

_NO_RAW_DATA = bytes([RAW_DATA << 3 | BYTES, 0])


class Payload(NamedTuple):
    """The position of a weight's numbers in the file: little-endian, as ``TensorProto.raw_data``."""

    offset: int
    length: int


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
        except UnknownWireFormatError:
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
    for field in fields_of(content, 0, len(content)):
        if (field.number, field.kind) != (GRAPH, BYTES):
            parts.append(content[field.start : field.end])
            continue
        graph, count = _graph_without_weights(content, field, places, count)
        parts += [tag(GRAPH), varint_bytes(len(graph)), graph]
    return b"".join(parts), places


def _graph_without_weights(
    content: mmap.mmap, graph: Field, places: dict[int, Payload], count: int
) -> tuple[bytes, int]:
    """Adds the places of the graph's weights to ``places``; ``count`` initializers came before, in another part."""
    parts: list[bytes] = []
    copied = graph.content  # what comes before is in `parts`
    for field in fields_of(content, graph.content, graph.end):
        if (field.number, field.kind) != (INITIALIZER, BYTES):
            continue
        raw = _large_raw_data(content, field) if field.end - field.content > INLINE_BYTES else None
        if raw is not None:
            places[count] = Payload(raw.content, raw.end - raw.content)
            tensor = content[field.content : raw.start] + _NO_RAW_DATA + content[raw.end : field.end]
            parts += [content[copied : field.start], tag(INITIALIZER), varint_bytes(len(tensor)), tensor]
            copied = field.end
        count += 1
    parts.append(content[copied : graph.end])
    return b"".join(parts), count


def _large_raw_data(content: mmap.mmap, tensor: Field) -> Field | None:
    """Returns the field with a tensor's numbers; None if it is small, or if there is not exactly one."""
    fields = list(fields_of(content, tensor.content, tensor.end))
    raw = [field for field in fields if (field.number, field.kind) == (RAW_DATA, BYTES)]
    if len(raw) != 1 or any(field.number == EXTERNAL_DATA for field in fields):
        return None
    return raw[0] if raw[0].end - raw[0].content > INLINE_BYTES else None
