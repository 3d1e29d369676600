"""Folds Slice, Split and Transpose of weights into separate initializers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

__all__ = ["FoldSelections"]

Arrays = Sequence[np.ndarray]


class FoldSelections(ir.passes.InPlacePass):
    """Folds Slice, Split and Transpose of initializers of any size, also if an initializer has several readers.

    `FoldConstants` skips Split, which has several outputs, and large initializers that more than one node reads. An
    attention's projections have both: they are rows of one packed weight, transposed. Only initializers can be
    quantized per channel.

    Postconditions: the products of a packed or shared weight read initializers; none is larger than its source. Nodes
        that produce a graph output are kept.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            select = _SELECTIONS.get(node.op_type) if node.domain == "" else None
            if select is None or not _reads_constants(node) or any(value.is_graph_output() for value in node.outputs):
                continue
            arrays = select(node, [_array(value) for value in node.inputs])
            _replace(model.graph, node, arrays)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _reads_constants(node: ir.Node) -> bool:
    return all(
        value is None
        or (value.is_initializer() and not value.is_graph_input() and value.dtype is not ir.DataType.STRING)
        for value in node.inputs
    )


def _array(value: ir.Value | None) -> np.ndarray:
    """Returns an initializer's array; empty for an omitted input."""
    return np.empty(0) if value is None or value.const_value is None else value.const_value.numpy()


def _replace(graph: ir.Graph, node: ir.Node, arrays: Arrays) -> None:
    outputs = list(node.outputs)
    for output, array in zip(outputs, arrays, strict=True):
        name = output.name or ""
        output.name = None
        value = ir.Value(
            name=name,
            type=output.type,
            shape=ir.Shape(array.shape),
            const_value=ir.tensor(np.ascontiguousarray(array), dtype=output.dtype, name=name),
        )
        graph.register_initializer(value)
        output.replace_all_uses_with(value)
    graph.remove(node, safe=True)


def _slice(node: ir.Node, inputs: Arrays) -> Arrays:
    data, starts, ends = inputs[:3]
    axes = inputs[3] if len(inputs) > 3 and inputs[3].size else np.arange(len(starts))
    steps = inputs[4] if len(inputs) > 4 and inputs[4].size else np.ones(len(starts), np.int64)
    cut = [slice(None)] * data.ndim
    for axis, *limits in zip(axes.tolist(), starts.tolist(), ends.tolist(), steps.tolist(), strict=True):
        cut[axis] = slice(*limits)
    return [data[tuple(cut)]]


def _split(node: ir.Node, inputs: Arrays) -> Arrays:
    data, axis = inputs[0], node.attributes.get_int("axis", 0)
    if len(inputs) > 1 and inputs[1].size:
        return np.split(data, np.cumsum(inputs[1])[:-1], axis)
    size = -(-data.shape[axis] // len(node.outputs))  # the last part is smaller if the size does not divide evenly
    return np.split(data, range(size, size * len(node.outputs), size), axis)


def _transpose(node: ir.Node, inputs: Arrays) -> Arrays:
    return [np.transpose(inputs[0], node.attributes.get_ints("perm"))]


_SELECTIONS: dict[str, Callable[[ir.Node, Arrays], Arrays]] = {
    "Slice": _slice,
    "Split": _split,
    "Transpose": _transpose,
}
