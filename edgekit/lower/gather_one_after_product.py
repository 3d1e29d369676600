"""Gathers one element of an axis with a list of one index, for a backend that gets the shape wrong otherwise."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph.operators import PRODUCTS
from edgekit.lower.rewriting import NotApplicable, RewritePass, constant, initializer, new_node, replace_node

__all__ = ["GatherOneAfterProduct"]


class GatherOneAfterProduct(RewritePass):
    """Replaces a ``Gather`` with a scalar index behind a layer by one with a list of one index, and a ``Squeeze``.

    OpenVINO 2026.4 returns a tensor of another rank where the layer is a convolution over one axis on integers.

    Preconditions: values have their shapes.
    Postconditions: no Gather with a constant scalar reads a layer. Names stay; results are equal.
    """

    operator = "Gather"
    everywhere = True

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        data, index = node.inputs[0], constant(node.inputs[1])
        producer = data.producer() if data is not None else None
        if index is None or index.shape.rank() != 0 or producer is None or producer.op_type not in PRODUCTS:
            raise NotApplicable("its index is not one number, or it reads no layer")
        name, axis = node.outputs[0].name, node.attributes.get_int("axis", 0)
        where = initializer(graph, f"{name}.index", np.asarray(index.numpy()).reshape(1))
        one = new_node("Gather", [data, where], {"axis": axis}, name=f"{name}.one", output=f"{name}.one")
        axes = initializer(graph, f"{name}.axis", np.array([axis], np.int64))
        replace_node(node, [one, new_node("Squeeze", [one.outputs[0], axes], {}, name=node.name, output=None)])
