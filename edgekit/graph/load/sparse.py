"""Writes sparse weights out as dense ones, which is what every later step and backend takes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from edgekit.errors import GraphError
from edgekit.graph.load.sizes import require_declared_lengths

__all__ = ["replace_sparse"]

_MAX_BYTES = 1 << 31
"""A dense weight of this size fits in no protobuf message; a sparse one of a few bytes may declare it."""


def replace_sparse(model: onnx.ModelProto, path: Path) -> None:
    """Replaces sparse initializers and the sparse values of Constant nodes by dense tensors, in place.

    Args:
        model: the model; subgraphs and functions are included.
        path: the file, for messages.

    Raises:
        GraphError: a sparse tensor has other numbers than it declares, indices outside of its shape, or is larger than
            2 GiB when it is dense.
    """
    for part in _parts([model.graph, *model.functions]):
        if isinstance(part, onnx.GraphProto):
            part.initializer.extend([_dense(sparse, path) for sparse in part.sparse_initializer])
            del part.sparse_initializer[:]
        for node in part.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "sparse_value":
                    dense = _dense(attribute.sparse_tensor, path)
                    attribute.CopyFrom(onnx.helper.make_attribute("value", dense))


def _parts(
    graphs: list[onnx.GraphProto | onnx.FunctionProto],
) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    while graphs:
        part = graphs.pop()
        yield part
        for node in part.node:
            for attribute in node.attribute:
                graphs += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _dense(sparse: onnx.SparseTensorProto, path: Path) -> onnx.TensorProto:
    values, name = sparse.values, sparse.values.name
    what, shape = f"{path}: sparse weight '{name}'", tuple(sparse.dims)
    require_declared_lengths([values, sparse.indices], {}, path)
    if values.data_type not in _NUMBERS or sparse.indices.data_type != onnx.TensorProto.INT64:
        raise GraphError(f"{what}: expected numbers with indices of int64, got other types")
    if values.data_location == onnx.TensorProto.EXTERNAL or sparse.indices.data_location == onnx.TensorProto.EXTERNAL:
        raise GraphError(f"{what}: expected its numbers in the file, got external data")
    numbers, indices = numpy_helper.to_array(values), numpy_helper.to_array(sparse.indices)
    if any(size < 0 for size in shape) or math.prod(shape) * numbers.itemsize >= _MAX_BYTES:
        raise GraphError(f"{what}: expected a shape of 0 or more and less than 2 GiB, got {shape}")
    try:
        places = indices.reshape(-1) if indices.ndim < 2 else np.ravel_multi_index(tuple(indices.T), shape)
        dense = np.zeros(math.prod(shape), numbers.dtype)
        if places.size and places.min() < 0:
            raise IndexError(f"index {places.min()}")
        dense[places] = numbers
    except (IndexError, ValueError) as e:
        raise GraphError(f"{what}: expected an index in the shape {shape} for each number, got: {e}") from e
    return numpy_helper.from_array(dense.reshape(shape), name)


_NUMBERS = frozenset(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING}
