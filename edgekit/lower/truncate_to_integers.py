"""Computes some operators on integers as floats and drops the fraction, for a backend that rounds."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, new_node, replace_node

__all__ = ["TRUNCATING", "TruncateToIntegers"]

TRUNCATING = ("ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "Resize")
"""Operators whose results on integers have a fraction."""


class TruncateToIntegers(RewritePass):
    """Casts the integers that a node reads to floats, and the result back.

    ONNX Runtime rounds the result towards zero, as a Cast does; OpenVINO 2026.4 rounds it to the nearest integer.

    Args:
        operator: one of `TRUNCATING`.

    Preconditions: values have their types.
    Postconditions: no node of the operator reads integers, except a Resize that copies. Names stay.
    """

    everywhere = True

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = operator

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        dtype, name = node.outputs[0].dtype, node.outputs[0].name
        if dtype is None or not dtype.is_integer():
            raise NotApplicable("it computes floats")
        if self.operator == "Resize" and node.attributes.get_string("mode", "nearest") == "nearest":
            raise NotApplicable("it copies")
        floats = new_node(
            "Cast", node.inputs[:1], {"to": ir.DataType.FLOAT}, name=f"{name}.floats", output=f"{name}.floats"
        )
        inner = new_node(node.op_type, [*floats.outputs, *node.inputs[1:]], name=node.name, output=f"{name}.fractions")
        inner.attributes.update(node.attributes)
        replace_node(node, [floats, inner, new_node("Cast", inner.outputs, {"to": dtype}, name=f"{name}.whole")])
