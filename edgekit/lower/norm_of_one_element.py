"""Replaces an InstanceNormalization of one element for each channel, which TensorRT-RTX fails to build."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, initializer, new_node, replace_node

__all__ = ["NormOfOneElement"]


class NormOfOneElement(RewritePass):
    """Replaces an ``InstanceNormalization`` whose mean is the element itself by ``x - x + bias``.

    The difference is zero for all numbers, and not a number where ``x`` is none. TensorRT-RTX 1.7 ends with an error of
    its shape inference.

    Preconditions: values have their shapes.
    Postconditions: no InstanceNormalization of the graph has one element in each channel. Names stay; results are
        equal.
    """

    operator = "InstanceNormalization"
    everywhere = True

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        data, _, bias = node.inputs
        if data is None or data.shape is None or any(size != 1 for size in list(data.shape)[2:]):
            raise NotApplicable("its channels have more than one element, or their sizes are not known")
        name = node.outputs[0].name
        shape = initializer(graph, f"{name}.bias_shape", np.asarray([-1] + [1] * (len(data.shape) - 2)))
        difference = new_node("Sub", [data, data], name=f"{name}.difference", output=f"{name}.difference")
        column = new_node("Reshape", [bias, shape], name=f"{name}.bias", output=f"{name}.bias")
        total = new_node("Add", [difference.outputs[0], column.outputs[0]], name=node.name)
        replace_node(node, [difference, column, total])
