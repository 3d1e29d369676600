"""Finds the nodes of a graph that each layer of an engine computes.

Engines fuse nodes, rename them and add layers of their own. Their records name some of the nodes that a layer was made
from; the others are found by the data flow: an activation function is fused into the layer before it, a
DequantizeLinear into the layer after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import onnx_ir as ir

from edgekit.graph.element_types import computed_of, constant_of
from edgekit.graph.operators import PRODUCTS

__all__ = ["Executed", "nodes_by_layer"]

FUSED_FORWARD = PRODUCTS | {"Cast", "DequantizeLinear", "Pad", "Transpose"}
"""Operators that engines fuse into the layer after them; others are fused into the layer before."""


class Executed(NamedTuple):
    """A layer that an engine executes.

    Attributes:
        names: names of nodes, or of values that nodes compute, that it was made from.
        reads: names of values that it reads, if known.
        writes: names of values that it computes, if known.
        readers: indices of the layers that read its outputs, if known.
    """

    names: Sequence[str]
    reads: Sequence[str] = ()
    writes: Sequence[str] = ()
    readers: Sequence[int] = ()


def nodes_by_layer(graph: ir.Graph, layers: Sequence[Executed]) -> list[tuple[ir.Node, ...]]:
    """Returns the nodes that each layer computes, in the order of the graph; none for a layer that the engine added.

    A node that several layers name belongs to all of them. Names that the graph does not have are ignored; a name such
    as ``NODE.part`` stands for the node ``NODE``, as `edgekit.lower` names the parts of a node that it replaces.

    Args:
        graph: the graph that the engine was built from.
        layers: the engine's layers, in the order of execution.
    """
    return _Partition(graph, layers).result()


class _Partition:
    def __init__(self, graph: ir.Graph, layers: Sequence[Executed]) -> None:
        self._order = list(graph)
        self._layers = layers
        self._nodes = {node.name: node for node in self._order if node.name}
        self._values = {value.name: node for node in self._order for value in node.outputs if value.name}
        self._owners: dict[ir.Node, list[int]] = {}

    def result(self) -> list[tuple[ir.Node, ...]]:
        for index, layer in enumerate(self._layers):
            for name in layer.names:
                self._claim(self._named(name), index)
        for index, layer in enumerate(self._layers):
            self._claim_between(index, layer)
        for index in reversed(range(len(self._layers))):
            self._claim_before_readers(index)
        self._fuse_into_producers(FUSED_FORWARD)
        self._fuse_into_readers()
        self._fuse_into_producers(frozenset())
        parts: list[list[ir.Node]] = [[] for _ in self._layers]
        for node in self._order:
            for index in self._owners.get(node, ()):
                parts[index].append(node)
        return [tuple(part) for part in parts]

    def _named(self, name: str) -> ir.Node | None:
        found = self._nodes.get(name) or self._values.get(name)
        return found or self._nodes.get(name.rpartition(".")[0])

    def _claim(self, node: ir.Node | None, index: int) -> None:
        if node is not None:
            owners = self._owners.setdefault(node, [])
            if index not in owners:
                owners.append(index)

    def _claim_between(self, index: int, layer: Executed) -> None:
        """Claims the nodes between what a layer writes and what it reads, if the graph has what it writes."""
        if not layer.writes or not all(value in self._values for value in layer.writes):
            return
        waiting = [self._values[value] for value in layer.writes]
        for node in waiting:
            self._claim(node, index)
        while waiting:
            for value in _activations(waiting.pop()):
                producer = value.producer()
                if producer is not None and producer not in self._owners and value.name not in layer.reads:
                    self._claim(producer, index)
                    waiting.append(producer)

    def _claim_before_readers(self, index: int) -> None:
        """Claims what the readers of a layer without nodes read, and no layer computes."""
        if any(index in owners for owners in self._owners.values()):
            return
        read = {
            producer
            for node, owners in self._owners.items()
            if set(owners).intersection(self._layers[index].readers)
            for producer in _producers(node)
        }
        for node in self._order:
            if node in read and node not in self._owners and not _is_about_shapes(node):
                self._claim(node, index)

    def _fuse_into_producers(self, others: frozenset[str]) -> None:
        for node in self._order:
            if node not in self._owners and node.op_type not in others and not _is_about_shapes(node):
                before = [self._owners.get(producer, []) for producer in _producers(node)]
                # It needs all its inputs, so it runs with the last of them, if all are known.
                if before and all(before):
                    self._claim(node, max(max(owners) for owners in before))

    def _fuse_into_readers(self) -> None:
        for node in reversed(self._order):
            if node not in self._owners and not _is_about_shapes(node):
                uses = (use.node for value in node.outputs for use in value.uses())
                after = [index for user in uses for index in self._owners.get(user, ())]
                if after:
                    self._claim(node, min(after))


def _activations(node: ir.Node) -> Iterator[ir.Value]:
    return (value for value in node.inputs if value is not None and constant_of(value) is None)


def _producers(node: ir.Node) -> list[ir.Node]:
    """Returns the nodes that compute its inputs, in whatever type it reads them."""
    found = (computed_of(value).producer() for value in _activations(node))
    return [producer for producer in found if producer is not None]


def _is_about_shapes(node: ir.Node) -> bool:
    """Whether the node computes shapes, which engines do when they are built: it outputs 64-bit integers from none."""
    integers = [value.dtype == ir.DataType.INT64 for value in node.outputs]
    return node.op_type in ("Constant", "Shape", "Size") or (all(integers) and not _reads_numbers(node))


def _reads_numbers(node: ir.Node) -> bool:
    return any(value.dtype not in (None, ir.DataType.INT64) for value in _activations(node))
