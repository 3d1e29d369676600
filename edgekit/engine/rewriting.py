"""Putting other nodes into an ONNX graph, without leaving behind what nobody reads any more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["is_of_bytes", "read_inside", "replace_nodes"]


def is_of_bytes(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether ``node`` is a DequantizeLinear of bytes to float32 whose scales and zero points are constant."""
    from onnx import TensorProto

    parameters = node.input[1:]
    if node.op_type != "DequantizeLinear" or len(parameters) < 2 or not all(name in constants for name in parameters):
        return False
    scale, zero = (constants[name] for name in parameters)
    return scale.data_type == TensorProto.FLOAT and zero.data_type in (TensorProto.UINT8, TensorProto.INT8)


def read_inside(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """What the branches and bodies within nodes read or give out."""
    found: set[str] = set()
    for node in nodes:
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                found |= _read(inner.node, inner)
    return found


def replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Makes ``nodes`` the graph's, less each DequantizeLinear, and each constant, that is not read any more."""
    read = _read(nodes, graph)
    kept = [node for node in nodes if node.op_type != "DequantizeLinear" or node.output[0] in read]
    # A constant may be an input's default too.
    read = _read(kept, graph).union(value.name for value in graph.input)
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(constants)


def _read(nodes: Sequence[onnx.NodeProto], graph: onnx.GraphProto) -> set[str]:
    """What ``nodes`` read, at any depth, and what ``graph`` gives out."""
    direct = {name for node in nodes for name in node.input}
    return direct | {value.name for value in graph.output} | read_inside(nodes)
