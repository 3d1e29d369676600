"""Keeps an average pooling in float between two Q/DQ pairs, where the backend's integer kernel is wrong."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, new_node, replace_node
from edgekit.quantize.kernel_limits import limit_of

__all__ = ["KeepAverageFloat"]


class KeepAverageFloat(RewritePass):
    """Inserts a ``Sum`` of one tensor between an ``AveragePool`` and the QuantizeLinear behind it.

    ONNX Runtime fuses ``DQ -> AveragePool -> Q``, whatever the pooling's attributes are. Its integer kernel (1.32)
    has no dilations, and divides by other counts with ``ceil_mode`` and ``count_include_pad``.

    Args:
        limits: names in `edgekit.quantize.kernel_limits`.

    Postconditions: no QuantizeLinear reads an AveragePool that one of the limits applies to. The pooling keeps its
        name, and the Sum has its output.
    """

    operator = "AveragePool"

    def __init__(self, limits: Collection[str]) -> None:
        super().__init__()
        self._limits = limits

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        if limit_of(node, self._limits) is None:
            raise NotApplicable("the integer kernel is right")
        y = node.outputs[0]
        if not any(use.node.op_type == "QuantizeLinear" for use in y.uses()):
            raise NotApplicable("no QuantizeLinear reads it")
        pool = new_node(node.op_type, node.inputs, name=node.name, output=f"{y.name}.average")
        pool.attributes.update(node.attributes)
        replace_node(node, [pool, new_node("Sum", [pool.outputs[0]], name=f"{node.name}.float")])
