"""Inserts nodes into a graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

__all__ = ["insert_behind", "inserted_cast", "new_constant", "new_initializer"]


def insert_behind(graph: ir.Graph, value: ir.Value, nodes: Sequence[ir.Node]) -> None:
    """Inserts nodes directly after the producer of ``value``, or at the start if it is an input or a constant."""
    producer = value.producer()
    if producer is not None:
        graph.insert_after(producer, list(nodes))
    else:
        graph.insert_before(graph[0], list(nodes))


def inserted_cast(
    graph: ir.Graph, value: ir.Value, dtype: ir.DataType, name: str, output: str | None = None
) -> ir.Value:
    """Inserts a Cast node after the producer of ``value``.

    Args:
        graph: the graph; changed in place.
        value: input of the cast; its other users are not changed.
        dtype: element type of the result.
        name: name of the node.
        output: name of the result; the node's name if None.

    Returns:
        The result of the cast, with the shape of ``value``.
    """
    node = ir.node("Cast", [value], attributes={"to": dtype}, name=name)
    result = node.outputs[0]
    result.name, result.type, result.shape = output or name, ir.TensorType(dtype), value.shape
    insert_behind(graph, value, [node])
    return result


def new_initializer(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """Registers a constant in the main graph; its name gets underscores while another has it."""
    return new_constant(model.graph, name, array)


def new_constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Registers a constant in a graph; its name gets underscores while another has it."""
    while name in graph.initializers:
        name += "_"
    value = ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        shape=ir.Shape(array.shape),
        const_value=ir.tensor(array, name=name),
    )
    graph.register_initializer(value)
    return value
