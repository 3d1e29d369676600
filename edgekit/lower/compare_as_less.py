"""Compares floats by Less, for a backend that takes NaN for greater than any number."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph.element_types import FLOATS
from edgekit.lower.rewriting import NotApplicable, RewritePass, initializer, new_node, replace_node

__all__ = ["CompareAsLess", "CompareWithZero"]

_SWAPPED = {"Greater": "Less", "GreaterOrEqual": "LessOrEqual"}


class CompareAsLess(RewritePass):
    """Replaces ``Greater(a, b)`` of floats by ``Less(b, a)``, and the same with "or equal".

    Comparisons with NaN are false. OpenVINO 2026.4 computes the two as the opposite of ``LessOrEqual`` and ``Less``, so
    that they are true.

    Args:
        operator: ``Greater`` or ``GreaterOrEqual``.

    Preconditions: values have their types.
    Postconditions: no node of the operator compares floats. Names stay; results are equal.
    """

    everywhere = True

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = operator

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        a, b = node.inputs
        if a is None or a.dtype not in FLOATS:
            raise NotApplicable("integers have no NaN")
        replace_node(node, [new_node(_SWAPPED[self.operator], [b, a], name=node.name)])


class CompareWithZero(RewritePass):
    """Replaces a ``Cast`` from floats to bool by a comparison with zero: OpenVINO 2026.4 casts NaN to false.

    Preconditions: values have their types.
    Postconditions: no Cast has floats as input and bool as output. Names stay; results are equal.
    """

    operator = "Cast"
    everywhere = True

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        data, result = node.inputs[0], node.outputs[0]
        if data is None or data.dtype not in FLOATS or node.attributes.get_int("to", 0) != ir.DataType.BOOL:
            raise NotApplicable("it does not cast floats to bool")
        zero = initializer(graph, f"{result.name}.zero", np.zeros((), data.dtype.numpy()))
        equal = new_node("Equal", [data, zero], name=f"{node.name}.is_zero", output=f"{result.name}.is_zero")
        replace_node(node, [equal, new_node("Not", equal.outputs, name=node.name)])
