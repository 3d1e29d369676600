"""Adds the mask of a windowed attention to the scores as they are, without a view in five dimensions."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgekit.graph.attention import Mask, find_attention
from edgekit.graph.shape_values import sizes_of

__all__ = ["MAX_ELEMENTS", "AddWindowMasks"]

MAX_ELEMENTS = 1 << 22
"""Max number of elements of a mask that is repeated for each image of the batch."""


class AddWindowMasks(ir.passes.InPlacePass):
    """Replaces Reshape, Add, Reshape around a constant mask by one Add.

    Swin computes the attention of all windows of all images in one batch, ``(images * windows, heads, S, S)``, and
    views it as ``(images, windows, heads, S, S)`` for a mask ``(1, windows, 1, S, S)``. OpenVINO does not fuse an
    attention with these Reshapes in it; ONNX Runtime takes 0.97 of the time of a Swin-T without them. The mask is
    repeated for each image, which needs a fixed batch size.

    Preconditions: values have their types and shapes.
    Postconditions: a constant mask that broadcasts over images and heads is added in four dimensions, if it has
        `MAX_ELEMENTS` or fewer then. Results are the same.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        masks = [mask for attention in find_attention(model) for mask in attention.masks if mask.view is not None]
        modified = [_add_in_place(model.graph, mask) for mask in masks]
        return ir.passes.PassResult(model, modified=any(modified))


def _add_in_place(graph: ir.Graph, mask: Mask) -> bool:
    assert mask.view is not None
    view, after = mask.view.producer(), next(iter(mask.node.outputs[0].uses())).node
    sizes, constant = sizes_of(mask.view), mask.value.const_value
    if mask.kind != "added" or view is None or view.op_type != "Reshape" or after.op_type != "Reshape":
        return False
    if sizes is None or len(sizes) != 5 or constant is None or mask.value.is_graph_input() or len(constant.shape) != 5:
        return False
    images, windows, scores = sizes[0], sizes[1], view.inputs[0]
    shape = tuple(constant.shape.numpy())
    if not isinstance(images, int) or shape[:3] != (1, windows, 1) or images * math.prod(shape) > MAX_ELEMENTS:
        return False
    assert scores is not None
    name = f"{mask.node.name or mask.node.outputs[0].name}.windows"
    array = np.tile(constant.numpy()[0], (images, 1, 1, 1))
    repeated = ir.Value(
        name=name,
        type=mask.value.type or ir.TensorType(constant.dtype),
        shape=ir.Shape(array.shape),
        const_value=ir.tensor(array, dtype=constant.dtype, name=name),
    )
    graph.register_initializer(repeated)
    add = ir.node("Add", [scores, repeated], name=f"{name}.add")
    added = add.outputs[0]
    added.type, added.shape = scores.type, scores.shape
    graph.insert_before(mask.node, add)
    ir.convenience.replace_all_uses_with(after.outputs[0], added)
    added.name = f"{name}.added"
    graph.remove([after, mask.node, view], safe=True)
    return True
