"""Merges DequantizeLinears that read the same integers."""

from __future__ import annotations

from collections.abc import Hashable

import onnx_ir as ir

__all__ = ["MergeDequantizers"]


class MergeDequantizers(ir.passes.InPlacePass):
    """Lets the readers of a DequantizeLinear read another one with the same inputs.

    ONNX Runtime makes one for each reader, so that ``DQ -> operator -> Q`` is found around every operator. Those that
    are left behind compute the same floats once more: 8 of PP-OCRv4's detector, before HardSigmoid and the product with
    it.

    Preconditions: integer operators have been fused.
    Postconditions: no two DequantizeLinears of the graph have the same inputs and attributes, unless one makes an
        output of the graph. Results are the same.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """See `onnx_ir.passes.InPlacePass`."""
        first: dict[Hashable, ir.Node] = {}
        modified = False
        for node in [node for node in model.graph if node.op_type == "DequantizeLinear"]:
            attributes = frozenset((name, attribute.value) for name, attribute in node.attributes.items())
            same = first.setdefault((*node.inputs, attributes), node)
            if same is node or node.outputs[0].is_graph_output():
                continue
            node.outputs[0].replace_all_uses_with(same.outputs[0])
            model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified=modified)
