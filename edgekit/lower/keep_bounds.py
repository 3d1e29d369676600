"""Replaces Relu and Clip where a backend removes them wrongly, before a quantizer."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, initializer, new_node, replace_node

__all__ = ["KeepBounds"]

_KNOWN = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16})
"""Types of quantizers whose smallest and largest number ONNX Runtime knows."""


class KeepBounds(RewritePass):
    """Replaces ``Relu`` and ``Clip`` before a ``QuantizeLinear`` to FP8 or 4-bit integers by ``Max`` and ``Min``.

    ONNX Runtime 1.32 removes a Relu or Clip before a QuantizeLinear that has the same bounds. Before these types it
    removes every Relu, so that negative numbers stay, and fails on a Clip (opset 19).

    Args:
        operator: ``Relu`` or ``Clip``.

    Preconditions: values have their types.
    Postconditions: no such node is before such a QuantizeLinear. The last new node has its name and its output.
    """

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = operator

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        output = node.outputs[0]
        if not any(_is_unknown(reader, index) for reader, index in output.uses()):
            raise NotApplicable("it is not before a quantizer to FP8 or integers of 4 bits")
        if node.op_type == "Relu":
            dtype = output.dtype or ir.DataType.FLOAT
            bounds = {"Max": initializer(graph, f"{output.name}.low", np.zeros((), dtype.numpy()))}
        else:
            limits = zip(("Max", "Min"), node.inputs[1:], strict=False)
            bounds = {operator: limit for operator, limit in limits if limit is not None}
        if not bounds:
            raise NotApplicable("it has no bounds")
        data, nodes = node.inputs[0], []
        for operator, bound in bounds.items():
            nodes.append(new_node(operator, [data, bound], name=f"{node.name}.{operator}"))
            data = nodes[-1].outputs[0]
        nodes[-1].name = node.name
        replace_node(node, nodes)


def _is_unknown(reader: ir.Node, index: int) -> bool:
    if reader.op_type != "QuantizeLinear" or index != 0:
        return False
    point = reader.inputs[2] if len(reader.inputs) > 2 else None
    return point is not None and point.dtype not in _KNOWN
