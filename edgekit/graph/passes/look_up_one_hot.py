"""Replaces products of one-hot codes and a matrix by look-ups of its rows."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph.insert import new_constant
from edgekit.graph.layer_weights import constant_array

__all__ = ["LookUpOneHot"]

_OPSET = 13
"""Squeeze takes its axes as an input."""
_INTEGERS = frozenset({ir.DataType.INT32, ir.DataType.INT64})


class LookUpOneHot(ir.passes.InPlacePass):
    """Replaces ``(x == [0, 1, ... n - 1]) @ table`` by ``Gather(table, x)``, as exporters of JAX write an embedding.

    An index that the table lacks has a code of zeros: the table gets a row of zeros behind the others, which such
    indices become. A product with a one-hot code rounds nothing, so the numbers stay the same, and nothing is
    left to quantize; for each index, it multiplies as many numbers as the table has.

    Preconditions: Constant nodes have been converted (`FoldConstants`); values have their shapes; the opset is 13 or
        newer, else nothing is changed.
    Postconditions: no such product is left, if the indices are int32 or int64 and the table is finite. The Gather has
        the name and the output of the MatMul. What nothing reads any more is left to `RemoveDead`.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if model.opset_imports.get("", 0) < _OPSET:
            return ir.passes.PassResult(model, modified=False)
        products = [node for node in model.graph.all_nodes() if node.op_type == "MatMul" and node.domain == ""]
        return ir.passes.PassResult(model, modified=any([_replace(node) for node in products]))


def _replace(node: ir.Node) -> bool:
    table, result, graph = constant_array(node.inputs[1]), node.outputs[0], node.graph
    if table is None or table.ndim != 2 or not isinstance(graph, ir.Graph) or result.shape is None:
        return False
    column = _indices(node.inputs[0], len(table))
    if column is None or column.shape is None or len(column.shape) != len(result.shape):
        return False
    if not np.isfinite(table).all() or table.dtype.kind != "f":
        return False
    dtype = column.dtype.numpy() if column.dtype is not None else np.dtype(np.int64)
    name = node.name or result.name or ""
    # The row of index -1 is the last one, of zeros.
    largest, zeros = (new_constant(graph, f"{name}.limit", np.array(number, dtype)) for number in (len(table), -1))
    rows = new_constant(graph, f"{name}.table", np.concatenate([table, np.zeros_like(table[:1])]))
    indices = ir.node("Squeeze", [column, new_constant(graph, f"{name}.axis", np.array([-1]))], name=f"{name}.indices")
    low = ir.node("Min", [indices.outputs[0], largest], name=f"{name}.min")
    clipped = ir.node("Max", [low.outputs[0], zeros], name=f"{name}.max")
    new = ir.node("Gather", [rows, clipped.outputs[0]], {"axis": 0}, name=node.name)
    for each in (indices, low, clipped):
        each.outputs[0].type, each.outputs[0].shape = column.type, ir.Shape(list(column.shape)[:-1])
    new.outputs[0].type, new.outputs[0].shape = result.type, result.shape
    nodes = [indices, low, clipped, new]
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [result], [new.outputs[0]])
    return True


def _indices(code: ir.Value | None, rows: int) -> ir.Value | None:
    """Returns the integers, in a last axis of one, whose one-hot codes a value has."""
    cast = _producer(code, "Cast")
    equal = _producer(cast.inputs[0], "Equal") if cast is not None else None
    if equal is None or code is None or code.shape is None:
        return None
    for value, numbers in (equal.inputs, equal.inputs[::-1]):
        array = constant_array(numbers)
        if (
            array is None
            or array.size != rows
            or array.shape[-1:] != (rows,)
            or (array.reshape(-1) != range(rows)).any()
        ):
            continue
        return _column(value, code.shape)
    return None


def _column(value: ir.Value | None, shape: ir.Shape) -> ir.Value | None:
    """Returns what is broadcast along the last axis alone to the shape of the codes."""
    expand = _producer(value, "Expand")
    value = expand.inputs[0] if expand is not None else value
    if value is None or value.dtype not in _INTEGERS or value.shape is None or len(value.shape) != len(shape):
        return None
    column = list(value.shape)
    return value if column[-1] == 1 and column[:-1] == list(shape)[:-1] else None


def _producer(value: ir.Value | None, operator: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.domain == "" and node.op_type == operator else None
