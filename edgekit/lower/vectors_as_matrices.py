"""Replaces vectors in matrix products by matrices, for a backend that fuses products of vectors wrongly."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, constant, initializer, new_node, replace_node

__all__ = ["VectorsAsMatrices"]


class VectorsAsMatrices(RewritePass):
    """Gives a vector that a ``MatMul`` reads the axis that ONNX adds, and removes the axis from the result.

    OpenVINO 2026.4 fuses a multiplication by a constant with the product before it. Of a vector it then takes the
    elements for columns: it refuses the graph, or computes another rank.

    Preconditions: values have their shapes.
    Postconditions: no MatMul reads a value that is known to be a vector. Names stay; results are equal.
    """

    operator = "MatMul"
    everywhere = True

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        vectors = [value is not None and value.shape is not None and len(value.shape) == 1 for value in node.inputs]
        if not any(vectors):
            raise NotApplicable("it multiplies no vector, or its shapes are not known")
        name, nodes = node.outputs[0].name, []
        factors = list(node.inputs)
        for index, value in enumerate(node.inputs):
            if not vectors[index] or value is None:
                continue
            tensor, stem = constant(value), f"{name}.factor_{index}"
            if tensor is not None:
                factors[index] = initializer(graph, stem, np.expand_dims(tensor.numpy(), index))
            else:
                axis = initializer(graph, f"{stem}.axis", np.array([index], np.int64))
                nodes.append(new_node("Unsqueeze", [value, axis], name=stem, output=stem))
                factors[index] = nodes[-1].outputs[0]
        product = new_node("MatMul", factors, name=node.name, output=f"{name}.matrix")
        axes = [axis for axis, vector in zip((-2, -1), vectors, strict=True) if vector]
        removed = initializer(graph, f"{name}.axes", np.array(axes, np.int64))
        replace_node(node, [*nodes, product, new_node("Squeeze", [product.outputs[0], removed], name=f"{name}.vector")])
