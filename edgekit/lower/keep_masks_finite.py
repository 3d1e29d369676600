"""Adds masks of the lowest number to floats, for a backend that would divide them by the scale of integers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, stored_constant
from edgekit.lower.stop_dequantizers import in_floats, may_be_integers

__all__ = ["KeepMasksFinite"]

_LARGE = 1e30
"""Divided by a scale of 1e-8, it is still a float32."""
_MASKING = frozenset(
    "Add Concat ConstantOfShape Expand Flatten Gather Identity Max Min Mul Neg Pad Reshape ScatterND Slice Split "
    "Squeeze Sub Tile Transpose Trilu Unsqueeze Where".split()
)
"""Operators that make masks."""


class KeepMasksFinite(RewritePass):
    """Inserts a ``Max`` with the lowest number before what is dequantized and added to a mask.

    OpenVINO 2026.4 moves a DequantizeLinear behind a sum, and divides what is added by the scale: the lowest float32,
    with which many exporters hide keys of attention, becomes -inf. A row whose keys are all hidden, as in the first
    rows of a text that is padded on the left, becomes NaN then; ONNX Runtime has equal weights there. OpenVINO moves
    no DequantizeLinear across a Max.

    Args:
        operator: ``Add`` or ``Sub``.

    Preconditions: values have their types.
    Postconditions: no such operator reads a tensor that OpenVINO could have in integers beside numbers of ``_LARGE``
        and more that are not infinite. Names and results stay.
    """

    everywhere = True

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = operator
        self._large, self._small = set[ir.Value](), set[ir.Value]()

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        changed = False
        for index, (data, other) in enumerate((node.inputs, node.inputs[::-1])):
            if data is None or other is None or not may_be_integers(data) or not self._is_large(other):
                continue
            kept = in_floats(graph, data, f"{node.outputs[0].name}.term_{index}")
            graph.insert_before(node, [kept])
            node.replace_input_with(index, kept.outputs[0])
            changed = True
        if not changed:
            raise NotApplicable("it adds no large numbers to what is dequantized")

    def _is_large(self, value: ir.Value) -> bool:
        """Whether a value is computed from a large constant by operators that make masks; visits no value twice."""
        waiting, seen = [value], set[ir.Value]()
        while waiting:
            each = waiting.pop()
            if each in seen or each in self._small:
                continue
            seen.add(each)
            if each in self._large or _holds_large(each):
                self._large.add(value)
                return True
            node = each.producer()
            if node is not None and node.op_type in _MASKING:
                waiting += [given for given in node.inputs if given is not None]
        self._small |= seen
        return False


def _holds_large(value: ir.Value) -> bool:
    node = value.producer()
    if node is None:
        return _has_large(stored_constant(value))
    filled = node.attributes.get("value") if node.op_type == "ConstantOfShape" else None
    return filled is not None and _has_large(filled.as_tensor())


def _has_large(tensor: ir.TensorProtocol | None) -> bool:
    if tensor is None or tensor.dtype != ir.DataType.FLOAT:
        return False
    numbers = np.abs(tensor.numpy())
    return bool(((numbers >= _LARGE) & np.isfinite(numbers)).any())
