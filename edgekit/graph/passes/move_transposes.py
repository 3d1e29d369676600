"""Cancels Transposes, also through the operators between them that work element by element."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph.arithmetic import sole_reader
from edgekit.graph.insert import new_constant
from edgekit.graph.layer_weights import constant_array
from edgekit.graph.operators import ELEMENTWISE_BINARY, ELEMENTWISE_UNARY

__all__ = ["MoveTransposes"]

_MAX_NODES = 16


class MoveTransposes(ir.passes.InPlacePass):
    """Merges a Transpose with the next one, directly behind it or behind operators on single elements.

    ``Transpose -> Relu -> Transpose`` becomes ``Relu -> Transpose`` with both orders in one, or ``Relu`` alone if the
    second turns the first back. Constants between the two are turned themselves.

    Preconditions: Constant nodes have been converted (`FoldConstants`); values have their shapes.
    Postconditions: no Transpose leads to another one through such operators, if each of them alone reads what is
        computed before it. No graph has more Transposes than before.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph.all_nodes()):
            if _order(node) is not None and node.graph is not None:
                modified = _merge(node) or modified
        return ir.passes.PassResult(model, modified=modified)


def _order(node: ir.Node) -> list[int] | None:
    order = node.attributes.get_ints("perm") if node.op_type == "Transpose" and node.domain == "" else None
    return None if order is None else list(order)


def _merge(last: ir.Node) -> bool:
    """Merges the Transpose before ``last`` into it."""
    path: list[ir.Node] = []
    value, order = last.inputs[0], _order(last)
    while value is not None and order is not None and len(path) <= _MAX_NODES:
        node = value.producer()
        if node is None or node.graph is not last.graph:
            return False
        first = _order(node)
        if first is not None:
            return _merged(node, first, path, last, order)
        # What a second reader gets would have to be turned for it.
        if sole_reader(value) is None:
            return False
        value = _data(node)
        path.insert(0, node)
    return False


def _data(node: ir.Node) -> ir.Value | None:
    """Returns the only computed input of an operator on single elements; None for other operators."""
    if node.domain != "" or node.op_type not in ELEMENTWISE_UNARY | ELEMENTWISE_BINARY or len(node.outputs) != 1:
        return None
    if node.op_type in ELEMENTWISE_UNARY:
        return node.inputs[0]
    computed = [value for value in node.inputs if constant_array(value) is None]
    shape, result = computed[0].shape if len(computed) == 1 and computed[0] is not None else None, node.outputs[0].shape
    # Nothing is broadcast but the constant.
    return computed[0] if shape is not None and result is not None and shape == result else None


def _merged(first: ir.Node, turned: list[int], path: list[ir.Node], last: ir.Node, order: list[int]) -> bool:
    source, rank, graph = first.inputs[0], len(turned), last.graph
    if source is None or not isinstance(graph, ir.Graph) or (path and sole_reader(first.outputs[0]) is None):
        return False
    if path and (len(order) != rank or not all(_turns(node, rank) for node in path)):
        return False
    inverse = np.argsort(turned).tolist()
    value, before = source, first.outputs[0]
    for node in path:
        for index, each in enumerate(node.inputs):
            array = constant_array(each)
            if each is before:
                node.replace_input_with(index, value)
            elif array is not None and array.size > 1 and node.op_type in ELEMENTWISE_BINARY:
                node.replace_input_with(index, _turned(graph, node, array, inverse))
        value, before = node.outputs[0], node.outputs[0]
        value.name, shape = f"{value.name}.turned", value.shape  # a name stands for one value
        value.shape = None if shape is None else ir.Shape([shape[axis] for axis in inverse])
    last.replace_input_with(0, value)
    last.attributes["perm"] = ir.AttrInt64s("perm", [turned[axis] for axis in order])
    return True


def _turns(node: ir.Node, rank: int) -> bool:
    arrays = [constant_array(value) for value in node.inputs] if node.op_type in ELEMENTWISE_BINARY else []
    return all(array is None or array.ndim <= rank for array in arrays)


def _turned(graph: ir.Graph, node: ir.Node, array: np.ndarray, inverse: list[int]) -> ir.Value:
    """Adds a constant with its axes turned to the graph."""
    full = array.reshape((1,) * (len(inverse) - array.ndim) + array.shape)
    return new_constant(graph, f"{node.outputs[0].name}.constant", np.ascontiguousarray(full.transpose(inverse)))
