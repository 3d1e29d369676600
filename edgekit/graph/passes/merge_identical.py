"""Merges nodes that compute the same from the same."""

from __future__ import annotations

from collections.abc import Hashable

import onnx_ir as ir

from edgekit.graph.operators import RANDOM

__all__ = ["MergeIdentical"]

_SMALL_BYTES = 256
"""Constants up to this size are compared by their numbers: exporters write a number once for each node that reads it.
Larger ones, such as weights, are compared by identity."""


class MergeIdentical(ir.passes.InPlacePass):
    """Lets the readers of a node read another one that computes the same: same operator, attributes and inputs.

    Exporters repeat what several layers compute from the same input: masks, positions, sizes.

    Preconditions: Constant nodes have been converted (`FoldConstants`).
    Postconditions: no two nodes of one graph compute the same, unless one of them makes an output of the graph, has a
        subgraph, or computes random numbers. Weights stay as they are.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = _merge(model.graph)
        for node in list(model.graph.all_nodes()):
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH:
                    modified = _merge(attribute.as_graph()) or modified
        return ir.passes.PassResult(model, modified=modified)


def _merge(graph: ir.Graph) -> bool:
    first: dict[Hashable, ir.Node] = {}
    modified = False
    for node in list(graph):
        key = _key(node)
        if key is None:
            continue
        same = first.setdefault(key, node)
        if same is node:
            continue
        for value, other in zip(node.outputs, same.outputs, strict=True):
            value.replace_all_uses_with(other)
        graph.remove(node, safe=True)
        modified = True
    return modified


def _key(node: ir.Node) -> Hashable | None:
    """Returns what is equal for nodes that compute the same; None for a node that stays."""
    if node.op_type in RANDOM or any(value.is_graph_output() for value in node.outputs):
        return None
    attributes = [(name, _attribute(attribute)) for name, attribute in sorted(node.attributes.items())]
    if any(value is None for _, value in attributes):
        return None
    inputs = tuple(_input(value) for value in node.inputs)
    return node.domain, node.op_type, node.overload, len(node.outputs), tuple(attributes), inputs


def _attribute(attribute: ir.Attr) -> Hashable | None:
    if attribute.is_ref() or attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return None
    if attribute.type == ir.AttributeType.TENSOR:
        return _numbers(attribute.as_tensor())
    value = attribute.value
    try:
        key = tuple(value) if isinstance(value, (list, tuple)) else value
        hash(key)
    except TypeError:
        return None
    return (attribute.type, key)


def _input(value: ir.Value | None) -> Hashable:
    constant = value is not None and value.is_initializer() and not value.is_graph_input()
    numbers = _numbers(value.const_value) if constant and value is not None and value.const_value is not None else None
    return id(value) if numbers is None else numbers


def _numbers(tensor: ir.TensorProtocol) -> Hashable | None:
    if tensor.nbytes > _SMALL_BYTES or tensor.dtype == ir.DataType.STRING:
        return None
    return tensor.dtype, tuple(tensor.shape.numpy()), tensor.tobytes()
