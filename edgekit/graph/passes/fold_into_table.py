"""Computes what is done with each row of a table once, in the table, instead of with every row that is looked up."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.graph.arithmetic import sole_reader
from edgekit.graph.insert import new_constant
from edgekit.graph.layer_weights import constant_array
from edgekit.graph.operators import ELEMENTWISE_BINARY, ELEMENTWISE_UNARY

__all__ = ["FoldIntoTable"]

_MOST_ELEMENTS = 1 << 20
"""Of a table: constants are folded by an evaluator in Python."""


class FoldIntoTable(ir.passes.InPlacePass):
    """Moves an operator on single elements from behind a ``Gather`` of a table's rows before it.

    ``Relu(Gather(table, x) + b)`` becomes ``Gather(Relu(table + b), x)``, which `FoldConstants` computes, or
    the target's runtime where it does not. A constant may differ by column, and not by the place in what is gathered.

    Preconditions: Constant nodes have been converted (`FoldConstants`); values have their shapes.
    Postconditions: no such operator is behind the Gather, if that alone reads the table, which has at most a million
        elements, and the operator alone reads what is gathered. The Gather has the operator's output; the table of the
        operator's output is left to `FoldConstants`.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        gathers = [node for node in model.graph.all_nodes() if node.op_type == "Gather" and node.domain == ""]
        return ir.passes.PassResult(model, modified=any([_move(node) for node in gathers]))


def _move(gather: ir.Node) -> bool:
    table, rows, graph = gather.inputs[0], gather.outputs[0], gather.graph
    array = constant_array(table)
    if table is None or array is None or not isinstance(graph, ir.Graph) or rows.shape is None or array.ndim != 2:
        return False
    if gather.attributes.get_int("axis", 0) != 0 or len(table.uses()) != 1 or array.size > _MOST_ELEMENTS:
        return False
    node = sole_reader(rows)
    if table.is_graph_output() or node is None or not _is_by_column(node, rows):
        return False
    result = node.outputs[0]
    inputs = [table if each is rows else _as_row(graph, each) for each in node.inputs]
    moved = ir.Node("", node.op_type, inputs, attributes=node.attributes.values(), name=node.name)
    moved.outputs[0].type, moved.outputs[0].shape = result.type, ir.Shape(array.shape)
    looked_up = ir.node("Gather", [moved.outputs[0], gather.inputs[1]], {"axis": 0}, name=gather.name)
    looked_up.outputs[0].type, looked_up.outputs[0].shape = result.type, result.shape
    graph.insert_before(gather, moved)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [looked_up], [result], [looked_up.outputs[0]])
    return True


def _is_by_column(node: ir.Node, rows: ir.Value) -> bool:
    """Whether a node does the same with each row of its input ``rows``, and returns the same shape."""
    if node.domain != "" or len(node.outputs) != 1 or node.outputs[0].shape != rows.shape:
        return False
    others = [value for value in node.inputs if value is not None and value is not rows]
    arrays = [constant_array(value) for value in others]
    if node.op_type in ELEMENTWISE_UNARY:
        return node.inputs[0] is rows and all(array is not None for array in arrays)
    if node.op_type not in ELEMENTWISE_BINARY or len(node.inputs) != 2 or len(arrays) != 1:
        return False
    return all(array is not None and array.shape[:-1] == (1,) * (array.ndim - 1) for array in arrays)


def _as_row(graph: ir.Graph, value: ir.Value | None) -> ir.Value | None:
    """Returns a constant with no more axes than the table."""
    array = constant_array(value)
    if value is None or array is None or array.ndim <= 1:
        return value
    return new_constant(graph, f"{value.name}.row", array.reshape(-1))
