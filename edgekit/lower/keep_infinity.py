"""Keeps the infinity that is the extremum of infinities, for a backend that returns its largest float."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph.element_types import FLOATS
from edgekit.graph.operators import PRODUCTS
from edgekit.lower.rewriting import NotApplicable, RewritePass, initializer, new_node, replace_node

__all__ = ["KeepInfinity"]

_MOVES = frozenset({"Concat", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"})
_FINITE = PRODUCTS | frozenset(
    "Add BatchNormalization Clip DequantizeLinear Gelu HardSigmoid HardSwish InstanceNormalization LayerNormalization "
    "LeakyRelu MaxPool Relu Resize Sigmoid Softmax Tanh".split()
)
"""What layers of a network compute, which are finite; an infinity is a mask, a logarithm or in the input."""


class KeepInfinity(RewritePass):
    """Halves what an extremum reads and doubles what it returns.

    OpenVINO 2026.4 begins with the largest finite float, which is then the maximum of infinities below zero, of no
    elements, and the minimum of infinities above zero. Twice half of it is that number if it was in the tensor, and
    infinite if not: half of the others is larger than it. Both factors are powers of two, so nothing is rounded.

    Args:
        operator: ``ReduceMax`` or ``ReduceMin``.

    Preconditions: values have their types.
    Postconditions: names stay; results are equal, but for numbers whose half is no normal float.
    """

    everywhere = True

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = operator

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        data, name = node.inputs[0], node.outputs[0].name
        if data is None or data.dtype not in FLOATS:
            raise NotApplicable("its numbers are integers")
        if _is_finite(data):
            raise NotApplicable("a layer of the network computes what it reads")
        half, two = (
            initializer(graph, f"{name}.{called}", np.asarray(number, data.dtype.numpy()))
            for called, number in (("half", 0.5), ("two", 2.0))
        )
        halved = new_node("Mul", [data, half], name=f"{name}.halved", output=f"{name}.halved")
        inner = new_node(node.op_type, [*halved.outputs, *node.inputs[1:]], name=node.name, output=f"{name}.of_halves")
        inner.attributes.update(node.attributes)
        replace_node(node, [halved, inner, new_node("Mul", [*inner.outputs, two], name=f"{name}.doubled")])


def _is_finite(value: ir.Value) -> bool:
    node = value.producer()
    while node is not None and node.op_type in _MOVES and node.inputs and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type in _FINITE
