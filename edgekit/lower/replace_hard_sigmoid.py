"""Replaces HardSigmoid without an offset, which a backend computes with an offset."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, initializer, new_node, replace_node

__all__ = ["ReplaceHardSigmoid"]

_ALPHA, _BETA = 0.2, 0.5
"""Default attributes of ONNX's HardSigmoid."""


class ReplaceHardSigmoid(RewritePass):
    """Replaces a ``HardSigmoid`` with ``beta`` 0 by ``Mul`` and ``Clip``.

    OpenVINO 2026.4 takes the default of 0.5 for a ``beta`` of 0.

    Postconditions: each HardSigmoid has another ``beta``. The Clip has the name of the node, and its output.
    """

    operator = "HardSigmoid"

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        if node.attributes.get_float("beta", _BETA) != 0:
            raise NotApplicable("it has an offset")
        data, y = node.inputs[0], node.outputs[0].name
        dtype = (data.dtype if data is not None else None) or ir.DataType.FLOAT
        numbers = {"alpha": node.attributes.get_float("alpha", _ALPHA), "low": 0.0, "high": 1.0}
        alpha, *limits = (
            initializer(graph, f"{y}.{name}", np.asarray(number, dtype.numpy())) for name, number in numbers.items()
        )
        scaled = new_node("Mul", [data, alpha], name=f"{node.name}.scaled", output=f"{y}.scaled")
        replace_node(node, [scaled, new_node("Clip", [scaled.outputs[0], *limits], name=node.name)])
