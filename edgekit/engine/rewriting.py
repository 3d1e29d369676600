"""Putting other nodes into an ONNX graph, without leaving behind what nobody reads any more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["read_inside", "replace_nodes"]


def read_inside(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """What the branches and bodies within nodes read or give out."""
    found: set[str] = set()
    for node in nodes:
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                found |= _read(inner)
    return found


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Makes ``nodes`` the graph's, less each DequantizeLinear, and each constant, that is not read any more."""
    before = list(nodes)
    del graph.node[:]
    graph.node.extend(before)
    read = _read(graph)
    kept = [node for node in before if node.op_type != "DequantizeLinear" or node.output[0] in read]
    del graph.node[:]
    graph.node.extend(kept)
    # A constant may be an input's default too.
    read = _read(graph).union(value.name for value in graph.input)
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(constants)


def _read(graph: onnx.GraphProto) -> set[str]:
    """What a graph's nodes read, at any depth, and what it gives out."""
    direct = {name for node in graph.node for name in node.input}
    return direct | {value.name for value in graph.output} | read_inside(graph.node)
