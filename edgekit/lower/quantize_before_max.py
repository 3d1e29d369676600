"""Moves Q/DQ pairs in front of a maximum, for a backend that fuses the two in a wrong way."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, constant, new_node

__all__ = ["QuantizeBeforeMax"]


class QuantizeBeforeMax(RewritePass):
    """Rewrites ``DQ(Q(Max(x)))`` as ``Max(DQ(Q(x)))`` for a maximum or minimum over axes.

    Rounding is monotone, so the results are equal. Measured on OpenVINO 2026.4: a float ReduceMax or GlobalMaxPool with
    the Q behind it is one kernel whose results are wrong (an SNR of 12 to 20 dB); on integers they are right.

    Args:
        operator: ``ReduceMax``, ``ReduceMin`` or ``GlobalMaxPool``.

    Preconditions: scales and zero points are initializers.
    Postconditions: no QuantizeLinear with one scale is the only reader of such an operator. Names of outputs stay.
    """

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = operator

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        result = node.outputs[0]
        readers = [use.node for use in result.uses()]
        if result.is_graph_output() or len(readers) != 1 or readers[0].op_type != "QuantizeLinear":
            raise NotApplicable("no QuantizeLinear alone reads it")
        quantize = readers[0]
        scale = constant(quantize.inputs[1])
        dequantizers = [use.node for use in quantize.outputs[0].uses()]
        if scale is None or scale.size != 1 or any(each.op_type != "DequantizeLinear" for each in dequantizers):
            raise NotApplicable("its scale is not one constant, or its integers are used as they are")
        name = f"{result.name}.read"
        first = new_node("QuantizeLinear", [node.inputs[0], *quantize.inputs[1:]], name=f"{name}_q", output=f"{name}_q")
        first.attributes.update(quantize.attributes)
        second = new_node("DequantizeLinear", [first.outputs[0], *quantize.inputs[1:]], name=name, output=name)
        graph.insert_before(node, [first, second])
        node.replace_input_with(0, second.outputs[0])
        for dequantize in dequantizers:
            ir.convenience.replace_all_uses_with(dequantize.outputs[0], result, replace_graph_outputs=True)
