"""Makes unsigned weights signed, for a backend without a kernel that multiplies signed by unsigned integers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, dequantizer, initializer, new_node, stored_constant

__all__ = ["SignedWeights"]


class SignedWeights(RewritePass):
    """Replaces ``uint8`` weights of a ``MatMul`` of ``int8`` by ``int8`` ones: 128 less, as is their zero point.

    ONNX Runtime 1.32 fuses the two DequantizeLinear and the MatMul to a MatMulIntegerToFloat, which it does not have
    for ``int8`` times ``uint8``: it fails to load the model.

    Preconditions: values have their types.
    Postconditions: no MatMul reads a DequantizeLinear of int8 first, and one of a uint8 constant second. Weights in
        external files stay. Names stay; results are equal.
    """

    operator = "MatMul"

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        data, weights = (dequantizer(value) for value in node.inputs)
        if data is None or weights is None:
            raise NotApplicable("it does not multiply integers")
        first, integers = data.inputs[0], stored_constant(weights.inputs[0])
        if first is None or first.dtype != ir.DataType.INT8 or integers is None or integers.dtype != ir.DataType.UINT8:
            raise NotApplicable("it does not multiply int8 by a constant of uint8")
        zero = stored_constant(weights.inputs[2])
        if zero is None:
            raise NotApplicable("the zero point of its weights is in an external file")
        name = f"{node.outputs[0].name}.signed"
        moved = [
            initializer(graph, f"{name}.{part}", (tensor.numpy() ^ np.uint8(128)).view(np.int8))
            for part, tensor in (("weights", integers), ("zero_point", zero))
        ]
        inputs = [moved[0], weights.inputs[1], moved[1]]
        signed = new_node("DequantizeLinear", inputs, name=name, output=name)
        signed.attributes.update(weights.attributes)
        graph.insert_before(node, [signed])
        node.replace_input_with(1, signed.outputs[0])
