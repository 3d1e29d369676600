"""Checks what an ONNX file declares about sizes before anything of that size is made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx

from edgekit.errors import GraphError
from edgekit.graph.load.structure import Payload

__all__ = ["declared_bytes", "require_bounded_functions", "require_declared_lengths"]

_MAX_NODES = 1_000_000
"""Nodes of a graph after its functions are inlined. The largest published models have some ten thousand."""

_TYPED_FIELDS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float_data",
    onnx.TensorProto.DOUBLE: "double_data",
    onnx.TensorProto.INT64: "int64_data",
    onnx.TensorProto.UINT32: "uint64_data",
    onnx.TensorProto.UINT64: "uint64_data",
    onnx.TensorProto.STRING: "string_data",
    **dict.fromkeys(
        (
            onnx.TensorProto.INT32,
            onnx.TensorProto.INT16,
            onnx.TensorProto.INT8,
            onnx.TensorProto.UINT16,
            onnx.TensorProto.UINT8,
            onnx.TensorProto.BOOL,
            onnx.TensorProto.FLOAT16,
            onnx.TensorProto.BFLOAT16,
        ),
        "int32_data",
    ),
}


def require_declared_lengths(tensors: Iterable[onnx.TensorProto], payloads: Mapping[str, Payload], path: Path) -> None:
    """Checks that each tensor has as many numbers as its dimensions declare. Of external data, only the dimensions.

    Args:
        tensors: tensors of the model.
        payloads: the places of those whose numbers are in the file only.
        path: the file, for messages.

    Raises:
        GraphError: a tensor has more or fewer numbers than declared, a negative dimension, or an unknown type.
    """
    for tensor in tensors:
        what = f"{path}: weight '{tensor.name}'"
        shape = tuple(tensor.dims)
        if any(size < 0 for size in shape):
            raise GraphError(f"{what}: expected dimensions of 0 or more, got {shape}")
        bits = _bits(tensor, what)
        count = math.prod(shape)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            continue
        if tensor.HasField("raw_data") and bits:
            length = len(tensor.raw_data)
            if not length and tensor.name in payloads:
                length = payloads[tensor.name].length
            _require_equal(what, shape, declared_bytes(tensor, path), length, "bytes")
        elif not tensor.HasField("raw_data") and tensor.data_type in _TYPED_FIELDS:
            _require_equal(what, shape, count, len(getattr(tensor, _TYPED_FIELDS[tensor.data_type])), "numbers")


def declared_bytes(tensor: onnx.TensorProto, path: Path) -> int:
    """Returns how many bytes the numbers of a tensor take, by its shape and type; ``path`` is for messages."""
    count: int = math.prod(tensor.dims)
    return -(-count * _bits(tensor, f"{path}: weight '{tensor.name}'") // 8)


def _bits(tensor: onnx.TensorProto, what: str) -> int:
    """Returns the size of an element in bits; 0 for texts."""
    name = onnx.TensorProto.DataType.Name(tensor.data_type) if tensor.data_type in _TYPES else ""
    if not name:
        raise GraphError(f"{what}: expected a type of ONNX {onnx.__version__}, got the number {tensor.data_type}")
    if name == "STRING":
        return 0
    for suffix, bits in (("INT4", 4), ("FLOAT4E2M1", 4), ("INT2", 2)):
        if name.endswith(suffix):
            return bits
    return 8 * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


_TYPES = frozenset(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}


def _require_equal(what: str, shape: tuple[int, ...], expected: int, got: int, unit: str) -> None:
    if got != expected:
        raise GraphError(
            f"{what}: expected {expected:,} {unit}, as its shape {shape} declares, got {got:,}",
            hint="the file is damaged: download or export it again",
        )


def require_bounded_functions(model: onnx.ModelProto, path: Path) -> None:
    """Checks that inlining the model's functions ends, with a number of nodes that a graph can have.

    Raises:
        GraphError: a function calls itself, or there would be more than a million nodes.
    """
    bodies = {(function.domain, function.name): function.node for function in model.functions}
    sizes: dict[tuple[str, str], int | None] = {}

    def nodes_of(nodes: Iterable[onnx.NodeProto]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            total += size_of(key) if key in bodies else 1
            for attribute in node.attribute:
                inner = [attribute.g] if attribute.HasField("g") else []
                total += sum(nodes_of(graph.node) for graph in (*inner, *attribute.graphs))
        return total

    def size_of(key: tuple[str, str]) -> int:
        if key not in sizes:
            sizes[key] = None  # while its body is counted
            sizes[key] = nodes_of(bodies[key])
        size = sizes[key]
        if size is None:
            raise GraphError(f"{path}: function '{key[1]}': expected one that does not call itself, got a cycle")
        return size

    try:
        total = nodes_of(model.graph.node)
    except RecursionError as e:
        raise GraphError(f"{path}: expected functions nested at most some hundred levels deep, got more") from e
    if total > _MAX_NODES:
        raise GraphError(f"{path}: expected at most {_MAX_NODES:,} nodes after functions are inlined, got {total:.3g}")
