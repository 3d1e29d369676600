"""Removes nodes whose output equals their input."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

__all__ = ["RemoveIdentity"]


class RemoveIdentity(ir.passes.InPlacePass):
    """Removes Identity, Dropout in inference, and Cast, Reshape, Slice, Transpose and poolings that change nothing.

    Preconditions: shapes have been inferred (`InferShapes`); a Reshape, Flatten, Squeeze, Unsqueeze, Expand or
        Slice is removed only if both shapes are static and equal.
    Postconditions: users read the node's input instead. A node is kept if it connects a graph output to an input, an
        initializer or another output, because ONNX requires a node there.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph.all_nodes()):
            changes_nothing = _CHANGES_NOTHING.get(node.op_type) if node.domain == "" else None
            if changes_nothing is not None and changes_nothing(node):
                modified = _bypass(node) or modified
        return ir.passes.PassResult(model, modified=modified)


def _bypass(node: ir.Node) -> bool:
    source, result, graph = node.inputs[0], node.outputs[0], node.graph
    if source is None or graph is None:
        return False
    is_output = result.is_graph_output()
    if is_output:
        producer = source.producer()
        if producer is None or producer.graph is not graph or source.is_graph_output():
            return False
    name = result.name
    if source.shape is None:
        source.shape = result.shape
    result.replace_all_uses_with(source, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    if is_output:
        source.name = name
        source.shape = result.shape if result.shape is not None else source.shape
    return True


def _always(node: ir.Node) -> bool:
    return True


def _is_inference(dropout: ir.Node) -> bool:
    """Whether a Dropout is in inference mode (optional third input false) and its mask (second output) is unused."""
    mask_used = len(dropout.outputs) > 1 and (bool(dropout.outputs[1].uses()) or dropout.outputs[1].is_graph_output())
    if mask_used or len(dropout.inputs) < 3 or dropout.inputs[2] is None:
        return not mask_used
    training = ir.convenience.get_const_tensor(dropout.inputs[2])
    return training is not None and not training.numpy().any()


def _keeps_type(cast: ir.Node) -> bool:
    source = cast.inputs[0]
    return source is not None and source.dtype is not None and source.dtype == cast.attributes["to"].as_int()


def _keeps_shape(node: ir.Node) -> bool:
    before = node.inputs[0].shape if node.inputs[0] is not None else None
    after = node.outputs[0].shape
    return before is not None and after is not None and before.is_static() and before == after


def _keeps_all(slice_: ir.Node) -> bool:
    """Whether a Slice takes all elements, from the first to the last."""
    steps = ir.convenience.get_const_tensor(slice_.inputs[4]) if len(slice_.inputs) > 4 and slice_.inputs[4] else None
    given = len(slice_.inputs) > 4 and slice_.inputs[4] is not None
    forward = steps is not None and bool((steps.numpy() == 1).all())
    return (forward or not given) and _keeps_shape(slice_)


def _keeps_order(transpose: ir.Node) -> bool:
    order = transpose.attributes.get_ints("perm")
    return order is not None and list(order) == sorted(order)


def _is_of_one_pixel(pool: ir.Node) -> bool:
    """Whether a pooling has a window of 1 x 1, as exported for an adaptive pool with the output size as its input."""
    indices_used = any(output.uses() or output.is_graph_output() for output in pool.outputs[1:])
    ones = (*pool.attributes.get_ints("kernel_shape", (0,)), *pool.attributes.get_ints("strides", ()))
    return not indices_used and set(ones) == {1} and not any(pool.attributes.get_ints("pads", ()))


def _reduces_nothing(node: ir.Node) -> bool:
    """Whether a Reduce has no axes and shall keep all of them."""
    return len([value for value in node.inputs if value is not None]) == 1 and (
        node.attributes.get_int("noop_with_empty_axes", 0) == 1
    )


_CHANGES_NOTHING: dict[str, Callable[[ir.Node], bool]] = {
    "Identity": _always,
    "Dropout": _is_inference,
    "Cast": _keeps_type,
    "Reshape": _keeps_shape,
    "Flatten": _keeps_shape,
    "Squeeze": _keeps_shape,
    "Unsqueeze": _keeps_shape,
    "Expand": _keeps_shape,
    "Slice": _keeps_all,
    "Transpose": _keeps_order,
    "AveragePool": _is_of_one_pixel,
    "MaxPool": _is_of_one_pixel,
    **dict.fromkeys(
        ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"),
        _reduces_nothing,
    ),
}
