"""Keeps the layout of what an operator reads, where ONNX Runtime would move a Transpose behind it wrongly."""

from __future__ import annotations

import string

import numpy as np
import onnx_ir as ir

from edgekit.graph.operators import needs_its_layout
from edgekit.lower.rewriting import NotApplicable, RewritePass, constant, initializer, new_node

__all__ = ["KeepLayout"]


class KeepLayout(RewritePass):
    """Inserts an ``Einsum`` that copies its input before a ``Resize`` or ``Pad``, or gives it numbers for each axis.

    ONNX Runtime moves a Transpose from before these to behind them, one of the graph or one that it adds around integer
    convolutions, where it must not (`needs_its_layout`). It moves nothing across an Einsum.

    Args:
        operator: ``Resize`` or ``Pad``.

    Preconditions: values have their ranks.
    Postconditions: each of them for which `needs_its_layout` is true reads an Einsum. A Resize with constant scales and
        a Pad with constant pads have no ``axes``. Results are equal.
    """

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = operator

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        data = node.inputs[0]
        if not needs_its_layout(node):
            raise NotApplicable("a Transpose may be moved across it")
        if data is None or data.shape is None:
            raise NotApplicable("the rank of its input is unknown")
        rank = len(data.shape)
        if self.operator == "Pad":
            _pad_each_axis(node, graph, rank)
        else:
            _scale_each_axis(node, graph, rank)
        if not needs_its_layout(node):
            return
        letters, output = string.ascii_lowercase[:rank], f"{node.outputs[0].name}.layout"
        equation = {"equation": f"{letters}->{letters}"}
        copy = new_node("Einsum", [data], equation, name=f"{node.name}.layout", output=output)
        copy.outputs[0].type, copy.outputs[0].shape = data.type, data.shape
        graph.insert_before(node, copy)
        node.replace_input_with(0, copy.outputs[0])


def _scale_each_axis(node: ir.Node, graph: ir.Graph, rank: int) -> None:
    """Removes ``axes`` if the scales are constant."""
    axes = node.attributes.get_ints("axes", ())
    others = [value for value in (node.inputs[1], *node.inputs[3:]) if value is not None and value.name]
    tensor = constant(node.inputs[2])
    if others or tensor is None or tensor.size != len(axes):
        return
    scales = np.ones(rank, np.float32)
    scales[[axis % rank for axis in axes]] = tensor.numpy()
    node.replace_input_with(2, initializer(graph, f"{node.outputs[0].name}.scales", scales))
    del node.attributes["axes"]


def _pad_each_axis(node: ir.Node, graph: ir.Graph, rank: int) -> None:
    """Removes the axes if they and the pads are constant."""
    pads, axes = constant(node.inputs[1]), constant(node.inputs[3])
    if pads is None or axes is None:
        return
    each = np.zeros((2, rank), np.int64)
    each[:, axes.numpy() % rank] = pads.numpy().reshape(2, -1)
    node.replace_input_with(1, initializer(graph, f"{node.outputs[0].name}.pads", each.reshape(-1)))
    node.replace_input_with(3, None)
