"""Gives a vector of slopes of PRelu all axes of their data, for a backend that aligns a vector with the channels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, constant, initializer, new_node, replace_node

__all__ = ["FullRankSlopes"]


class FullRankSlopes(RewritePass):
    """Adds axes of one element in front of the slope of a ``PRelu``, which is aligned with the last axis.

    OpenVINO 2026.4 takes a vector of as many slopes as channels for one slope a channel, also where ONNX aligns it with
    a last axis of the same size. It fuses the operator into the matrix product before it, and refuses the graph if the
    slopes are those of another axis than the last: such a PRelu becomes a choice between ``x`` and ``slope * x``.

    Preconditions: values have their types and shapes.
    Postconditions: slopes of one axis have the rank of their data, if it is known. Names stay; results are equal.
    """

    operator = "PRelu"
    everywhere = True

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        data, slope = node.inputs
        if data is None or slope is None or data.shape is None or slope.shape is None:
            raise NotApplicable("its shapes are not known")
        if _is_fused_into_product(data, slope):
            _replace_by_choice(node, graph)
            return
        missing = len(data.shape) - len(slope.shape)
        if missing <= 0 or len(slope.shape) != 1:
            raise NotApplicable("its slopes are no vector")
        name, tensor = f"{node.outputs[0].name}.slope", constant(slope)
        if tensor is not None:
            array = tensor.numpy()
            node.replace_input_with(1, initializer(graph, name, array.reshape((1,) * missing + array.shape)))
            return
        axes = initializer(graph, f"{name}.axes", np.arange(missing))
        full = new_node("Unsqueeze", [slope, axes], name=name, output=name)
        graph.insert_before(node, [full])
        node.replace_input_with(1, full.outputs[0])


def _is_fused_into_product(data: ir.Value, slope: ir.Value) -> bool:
    before, shape = data.producer(), slope.shape
    product = before is not None and before.op_type in ("Gemm", "MatMul")
    return product and shape is not None and len(shape) > 1 and shape[-1] == 1 and any(size != 1 for size in shape)


def _replace_by_choice(node: ir.Node, graph: ir.Graph) -> None:
    (data, slope), name = node.inputs, node.outputs[0].name
    dtype = (data.dtype if data is not None else None) or ir.DataType.FLOAT
    zero = initializer(graph, f"{name}.zero", np.zeros((), dtype.numpy()))
    below = new_node("Less", [data, zero], name=f"{name}.below", output=f"{name}.below")
    scaled = new_node("Mul", [data, slope], name=f"{name}.scaled", output=f"{name}.scaled")
    chosen = new_node("Where", [below.outputs[0], scaled.outputs[0], data], name=node.name)
    replace_node(node, [below, scaled, chosen])
