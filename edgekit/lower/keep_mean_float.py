"""Keeps means and sums of tensors of three axes in float, where the backend's integer kernel is wrong."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, initializer, new_node

__all__ = ["KeepMeanFloat"]

_LOWEST = np.asarray(np.finfo(np.float32).min)


_MOVED_ACROSS = frozenset(
    "Clip Dropout Expand Flatten Gather Identity MaxPool Mul Neg Pad Reshape Slice Squeeze Transpose Unsqueeze".split()
)
"""Operators behind which OpenVINO moves a DequantizeLinear: it does not move it behind a Max."""


class KeepMeanFloat(RewritePass):
    """Inserts a ``Max`` with the lowest number before a ``ReduceMean`` or ``ReduceSum`` that would read integers.

    OpenVINO 2026.4 moves a DequantizeLinear behind the operator, and then computes over integers. Its kernel is wrong
    for tensors of three axes, more than one element in the first, and the second among those that are reduced: a mean
    over the tokens of two sentences. Where there is a Transpose before it, OpenVINO reduces another axis instead.

    Args:
        operator: ``ReduceMean`` or ``ReduceSum``.

    Preconditions: values have their shapes.
    Postconditions: no such operator reads a tensor of three axes that OpenVINO could have in integers. Names and
        results stay.
    """

    everywhere = True

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = operator

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        data = node.inputs[0]
        if data is None or (data.shape is not None and (len(data.shape) != 3 or data.shape[0] == 1)):
            raise NotApplicable("the integer kernel is right for its axes")
        if not _may_be_integers(data):
            raise NotApplicable("it reads floats")
        name = f"{node.outputs[0].name}.float"
        kept = new_node("Max", [data, initializer(graph, f"{name}.lowest", _LOWEST)], name=name, output=name)
        graph.insert_before(node, [kept])
        node.replace_input_with(0, kept.outputs[0])


def _may_be_integers(value: ir.Value) -> bool:
    node = value.producer()
    while node is not None and node.op_type in _MOVED_ACROSS:
        before = [each for each in node.inputs if each is not None and each.const_value is None]
        node = before[0].producer() if before else None
    return node is not None and node.op_type == "DequantizeLinear"
