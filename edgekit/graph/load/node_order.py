"""Puts the nodes of an ONNX file in an order in which each comes behind those that it reads."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import onnx

from edgekit.graph.load.walk import graphs_in

__all__ = ["sort_nodes"]


def sort_nodes(model: onnx.ModelProto) -> None:
    """Sorts the nodes of the main graph, in place, if they are not in order.

    ONNX requires the order. ONNX Runtime sorts the main graph itself, so that some tools (AMD Quark) write files
    without it. Nodes that read each other in a circle stay as they are.
    """
    nodes = model.graph.node
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    before = [{makers[name] for name in _read_by(node) if name in makers} for node in nodes]
    if all(index > max(needed, default=-1) for index, needed in enumerate(before)):
        return
    readers: list[list[int]] = [[] for _ in nodes]
    for index, needed in enumerate(before):
        for maker in needed:
            readers[maker].append(index)
    missing = [len(needed) for needed in before]
    ready = [index for index, count in enumerate(missing) if not count]
    order: list[int] = []
    while ready:
        order.append(heapq.heappop(ready))
        for index in readers[order[-1]]:
            missing[index] -= 1
            if not missing[index]:
                heapq.heappush(ready, index)
    if len(order) < len(before):
        return
    ordered = [nodes[index] for index in order]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    for index, copy in enumerate(copies):
        nodes[index].CopyFrom(copy)


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Yields the names that a node and its subgraphs read; those of a subgraph's own values too."""
    yield from node.input
    for graph in graphs_in(node):
        for inner in graph.node:
            yield from _read_by(inner)
        yield from (output.name for output in graph.output)
