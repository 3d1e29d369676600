"""Outputs of integer convolutions as they are computed: with channels last.

ONNX wants channels first, for which all numbers of an output are moved once more. An array can be looked at in another
order without that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.lower.rewriting import is_of_bytes, read_inside

if TYPE_CHECKING:
    import onnx

__all__ = ["FIRST", "put_channels_last"]

LAST = (0, 2, 3, 1)

FIRST = (0, 3, 1, 2)
"""Axes of an output with channels last in the order that the graph means."""


def put_channels_last(model: onnx.ModelProto) -> list[str]:
    """Turns outputs of four dimensions around that a quantized ``Conv`` computes, or a sum of such.

    Args:
        model: in standard operators; changed in place.

    Returns:
        The names of the outputs whose axes are ``(N, H, W, C)`` now.
    """
    from onnx import helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    bytes_ = {node.output[0] for node in graph.node if is_of_bytes(node, constants)}
    convs = {n.output[0] for n in graph.node if n.op_type == "Conv" and all(name in bytes_ for name in n.input[:2])}
    sums = {n.output[0] for n in graph.node if n.op_type == "Add" and all(name in convs for name in n.input)}
    eligible = (convs | sums) - read_inside(graph.node)
    turned = []
    for output in graph.output:
        dimensions = output.type.tensor_type.shape.dim
        if output.name not in eligible or len(dimensions) != len(LAST):
            continue
        inner = f"{output.name}.channels_first"
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [inner if name == output.name else name for name in names]
        graph.node.append(
            helper.make_node("Transpose", [inner], [output.name], name=f"{output.name}.turned", perm=LAST)
        )
        sizes = [dimensions[axis].dim_param or dimensions[axis].dim_value or None for axis in LAST]
        output.CopyFrom(helper.make_tensor_value_info(output.name, output.type.tensor_type.elem_type, sizes))
        turned.append(output.name)
    return turned
