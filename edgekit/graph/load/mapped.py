"""Reads an ONNX file whose weights stay in the file, and are mapped into memory when they are used."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgekit.graph.load.structure import Payload, structure_from_file

__all__ = ["mapped_graph"]


def mapped_graph(path: Path) -> ir.Model:
    """Reads an ONNX file; its large weights are arrays that cannot be written to, in the mapped file.

    The file may be replaced while the graph is used, but must not be written to.

    Raises:
        OSError: the file cannot be read.
        google.protobuf.message.DecodeError: it is not a protobuf message.
        onnx_ir.serde.SerdeError: it is not an ONNX model.
    """
    path = Path(path)
    model, payloads = structure_from_file(path)
    graph = ir.from_proto(model)
    ir.external_data.set_base_dir(graph.graph, path.parent)
    if payloads:
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for name, payload in payloads.items():
            value = graph.graph.initializers[name]
            assert value.const_value is not None
            value.const_value = _tensor(content, payload, value.const_value)
    return graph


def _tensor(content: mmap.mmap, payload: Payload, declared: ir.TensorProtocol) -> ir.TensorProtocol:
    packed = declared.dtype.bitwidth < 8
    element = np.dtype(np.uint8) if packed else declared.dtype.numpy().newbyteorder("<")
    array = np.frombuffer(content, element, payload.length // element.itemsize, payload.offset)
    shape = declared.shape.numpy()
    if packed:
        return ir.PackedTensor(array, declared.dtype, shape=ir.Shape(shape), name=declared.name)
    return ir.tensor(array.reshape(shape), dtype=declared.dtype, name=declared.name)
