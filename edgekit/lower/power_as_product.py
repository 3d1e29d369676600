"""Multiplies integers for a small power, for a backend that computes powers as floats."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, constant, new_node, replace_node

__all__ = ["PowerAsProduct"]

_LARGEST = 3
"""ONNX Runtime multiplies for the same exponents, and computes others in double precision."""


class PowerAsProduct(RewritePass):
    """Replaces ``Pow`` of integers to the power of 2 or 3 by products.

    OpenVINO 2026.4 computes powers in float32, which has 24 bits, and limits the result to the type; products of
    integers are exact, and overflow as those of ONNX Runtime.

    Preconditions: values have their types.
    Postconditions: no Pow has integers as base and one of these constants as exponent. Names stay.
    """

    operator = "Pow"
    everywhere = True

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        base, exponent = node.inputs[0], constant(node.inputs[1])
        if base is None or base.dtype is None or not base.dtype.is_integer():
            raise NotApplicable("its base is no integer")
        if exponent is None or exponent.size != 1 or exponent.numpy().item() not in range(2, _LARGEST + 1):
            raise NotApplicable("its exponent is not a small constant")
        if len(exponent.shape) > len(base.shape if base.shape is not None else ()):
            raise NotApplicable("its exponent has more axes than its base")
        name, nodes, result = node.outputs[0].name, [], base
        for power in range(2, int(exponent.numpy().item()) + 1):
            product = f"{name}.power{power}"
            nodes.append(new_node("Mul", [result, base], name=product, output=product))
            result = nodes[-1].outputs[0]
        nodes[-1].name, nodes[-1].outputs[0].name = node.name, None
        replace_node(node, nodes)
