"""Inserts nodes into a graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgekit.graph.stats import CONSTANT_INPUTS

__all__ = ["float_node", "insert_behind", "inserted_cast", "new_constant", "new_initializer", "pass_on", "zero_point"]


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


def float_node(
    operator: str, inputs: Sequence[ir.Value | None], name: str, shape: ir.Shape | None, *, constants: str = ""
) -> ir.Node:
    """Returns a new node and its one result, both of one name.

    Args:
        operator: of ONNX's default domain; its result is float32.
        inputs: what it reads.
        name: of the node and of the result.
        shape: of the result.
        constants: which inputs are constants and not parameters, as `CONSTANT_INPUTS`.
    """
    node = ir.node(operator, inputs, name=name, metadata_props={CONSTANT_INPUTS: constants} if constants else None)
    result = node.outputs[0]
    result.name, result.type, result.shape = name, ir.TensorType(ir.DataType.FLOAT), shape
    return node


def pass_on(graph: ir.Graph, value: ir.Value, nodes: Sequence[ir.Node], *, renamed: str) -> None:
    """Inserts nodes behind the producer of ``value``; all who read it before read the result of the last one.

    Args:
        graph: the graph; changed in place.
        value: the result of a node.
        nodes: some of them read ``value``.
        renamed: the new name of ``value`` if it is an output of the graph, whose name the last result then has.
    """
    producer, own = value.producer(), set(nodes)
    assert producer is not None
    graph.insert_after(producer, list(nodes))
    last = nodes[-1].outputs[0]
    for use in tuple(value.uses()):
        if use.node not in own:
            use.node.replace_input_with(use.idx, last)
    if value.is_graph_output():
        name, value.name = value.name, renamed
        last.name = name
        graph.outputs[graph.outputs.index(value)] = last


def new_initializer(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """Registers a constant in the main graph; its name gets underscores while another has it."""
    return new_constant(model.graph, name, array)


def zero_point(model: ir.Model, dtype: np.dtype | type[np.generic], shape: tuple[int, ...], number: int) -> ir.Value:
    """Returns a constant of the main graph that has ``number`` in each element; one for all readers.

    Runtimes look at each weight of a graph while they load it: of a chain of 6,000 quantized convolutions, 15,000 of
    48,000 were equal zero points, and ONNX Runtime loads it in three quarters of the time without them.
    """
    dtype = np.dtype(dtype)
    name = "_".join(["zero_point", dtype.name, *(["x".join(map(str, shape))] if shape else []), str(number)])
    known = model.graph.initializers.get(name)
    if known is not None and known.const_value is not None:
        array = known.const_value.numpy()
        if array.dtype == dtype and array.shape == shape and (array == number).all():
            return known
    return new_initializer(model, name, np.full(shape, number, dtype))


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
