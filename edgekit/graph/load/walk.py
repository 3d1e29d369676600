"""Walks over the messages of an ONNX file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

__all__ = ["graphs_in", "nodes_of", "opset_of", "tensors_of"]


def nodes_of(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yields the nodes of the graph, of its subgraphs and of the functions."""
    yield from _nodes_in(model.graph.node)
    for function in model.functions:
        yield from _nodes_in(function.node)


def _nodes_in(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in graphs_in(node):
            yield from _nodes_in(graph.node)


def graphs_in(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yields the graphs that are attributes of a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yields the initializers of the graph and its subgraphs, and the tensors that are attributes."""
    yield from model.graph.initializer
    for node in nodes_of(model):
        for graph in graphs_in(node):
            yield from graph.initializer
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def opset_of(imports: Iterable[onnx.OperatorSetIdProto]) -> int:
    """Returns the version of ONNX's own operators; 0 if it is not given."""
    return max((each.version for each in imports if each.domain in ("", "ai.onnx")), default=0)
