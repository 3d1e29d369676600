"""Finds the products inside of the branches of an If and the bodies of a Loop or Scan, where nothing is quantized."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.graph.operators import PRODUCTS

__all__ = ["inputs_that_choose", "products_in_bodies"]


def products_in_bodies(graph: ir.Model) -> list[ir.Node]:
    """Returns the convolutions and matrix products that are not in the main graph, in the order of their bodies."""
    return [node for body in graph.graph.subgraphs() for node in body if node.op_type in PRODUCTS]


def inputs_that_choose(graph: ir.Model) -> list[str]:
    """Returns the names of the graph's inputs of one number that decide which branch of an If runs."""
    found: dict[str, None] = {}
    seen: set[ir.Value] = set()
    stack = [node.inputs[0] for node in graph.graph if node.op_type == "If"]
    while stack:
        value = stack.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if node is not None:
            stack += node.inputs
        elif value.is_graph_input() and value.shape is not None and all(size == 1 for size in value.shape):
            found[value.name or ""] = None
    return list(found)
