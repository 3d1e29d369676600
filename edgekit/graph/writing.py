"""Writes a graph as one ONNX file, without a copy of its weights in memory."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir

from edgekit.graph.external_weights import INLINE_BYTES
from edgekit.graph.wire_format import BYTES, GRAPH, INITIALIZER, RAW_DATA, Field, fields_of, tag, varint_bytes

__all__ = ["write_graph"]

Weight: TypeAlias = "ir.Tensor[Any] | ir.PackedTensor[Any] | ir.ExternalTensor"
Weights: TypeAlias = Mapping[str, Weight]

_NO_NUMBERS = ir.tensor(np.empty(0, np.uint8))


def write_graph(graph: ir.Model, path: Path, *, inline: bool = True) -> None:
    """Writes the graph to one file of less than 2 GiB; the same bytes as `onnx_ir.save`.

    protobuf needs three copies of the weights: each as bytes, all in the message, and the message as bytes. Here the
    message is made without large weights, and these are written between its fields.

    Args:
        graph: the graph; not changed, but for small external weights, and those of bodies, which are read.
        path: the file; it is replaced at the end, because the graph's weights may be mapped from it.
        inline: write external weights too; otherwise they stay in their files.

    Raises:
        OSError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as file:
            with _without_large_weights(graph, inline) as weights:
                if inline:
                    ir.external_data.load_to_model(graph)
                content = ir.to_proto(graph).SerializeToString()
            _write(file, content, weights)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _without_large_weights(graph: ir.Model, inline: bool) -> Iterator[Weights]:
    initializers = graph.graph.initializers
    weights = {
        name: tensor
        for name, value in initializers.items()
        # Others, such as strings and protobuf's own tensors, are copied as they are.
        if isinstance(tensor := value.const_value, (ir.Tensor, ir.PackedTensor, ir.ExternalTensor))
        and tensor.nbytes > INLINE_BYTES
        and (inline or not isinstance(tensor, ir.ExternalTensor))
    }
    try:
        for name, tensor in weights.items():
            initializers[name].const_value = ir.LazyTensor(
                lambda: _NO_NUMBERS,
                tensor.dtype,
                ir.Shape(tensor.shape.numpy()),
                name=tensor.name,
                doc_string=tensor.doc_string,
                metadata_props=dict(tensor.metadata_props),
            )
        yield weights
    finally:
        for name, tensor in weights.items():
            initializers[name].const_value = tensor


def _write(file: BinaryIO, content: bytes, weights: Weights) -> None:
    if not weights:
        file.write(content)
        return
    view = memoryview(content)
    for field in fields_of(content, 0, len(content)):
        if (field.number, field.kind) != (GRAPH, BYTES):
            file.write(view[field.start : field.end])
            continue
        parts = list(_parts_of_graph(content, field, weights))
        length = sum(part.nbytes for part in parts)
        file.write(tag(GRAPH) + varint_bytes(length))
        for part in parts:
            if isinstance(part, memoryview):
                file.write(part)
            else:
                _write_weight(file, part)


def _write_weight(file: BinaryIO, weight: Weight) -> None:
    try:
        weight.tofile(file)
    except OSError as e:
        if e.errno is not None:
            raise
        # numpy does not say why a write fell short: the disk is full, or a limit is reached. The next write says it.
        os.write(file.fileno(), b"\0")
        raise OSError(errno.EIO, os.strerror(errno.EIO)) from e


def _parts_of_graph(content: bytes, graph: Field, weights: Weights) -> Iterator[memoryview | Weight]:
    """Yields the graph's message in parts: bytes of the structure, and weights."""
    view = memoryview(content)
    copied = graph.content
    for field in fields_of(content, graph.content, graph.end):
        if (field.number, field.kind) != (INITIALIZER, BYTES):
            continue
        weight = weights.get(onnx.TensorProto.FromString(view[field.content : field.end]).name)
        if weight is None:
            continue
        (raw,) = (each for each in fields_of(content, field.content, field.end) if each.number == RAW_DATA)
        start = tag(RAW_DATA) + varint_bytes(weight.nbytes)
        length = raw.start - field.content + len(start) + weight.nbytes + field.end - raw.end
        yield view[copied : field.start]
        yield memoryview(tag(INITIALIZER) + varint_bytes(length))
        yield view[field.content : raw.start]
        yield memoryview(start)
        yield weight
        copied = raw.end
    yield view[copied : graph.end]
