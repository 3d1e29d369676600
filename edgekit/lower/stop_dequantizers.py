"""Keeps operators in float between integers, where the backend's integer kernels are wrong."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, dequantizer, initializer, new_node, stored_constant
from edgekit.quantize.kernel_limits import limit_of

__all__ = ["STOPPING", "StopDequantizers", "in_floats", "may_be_integers"]

STOPPING = ("AveragePool", "Conv", "GlobalAveragePool", "Pad", "ReduceMean", "ReduceSum")
"""Operators that `StopDequantizers` is for."""

_LOWEST = np.asarray(np.finfo(np.float32).min)
_MOVED_ACROSS = frozenset(
    "Clip Dropout Expand Flatten Gather Identity MaxPool Mul Neg Pad Reshape Slice Squeeze Transpose Unsqueeze".split()
)
"""Operators behind which OpenVINO moves a DequantizeLinear: it does not move it behind a Max."""


class StopDequantizers(RewritePass):
    """Inserts a ``Max`` with the lowest number before an operator that would read integers.

    OpenVINO 2026.4 moves a DequantizeLinear behind these operators, and then computes over integers, wrongly for:

    - a mean or sum of a tensor of three axes, more than one element in the first, with the second among those that are
      reduced: a mean over the tokens of two sentences. Where a Transpose is before it, OpenVINO reduces another axis;
    - a ``GlobalAveragePool`` over one axis of size, with more elements in the first axis than channels, of which there
      are several;
    - an ``AveragePool`` that counts its pads: they are 0 among the integers, where their zero point is meant;
    - a ``Conv`` of integer weights whose groups have fewer than 32 channels, and more than 32 outputs: on processors
      with AMX, it takes the zero point of one group for all, where that is not 0;
    - a ``Pad`` with another number than 0 along one axis: it takes the number for an integer. With 0, it does so
      along an axis of one element, such as that of a batch of one.

    Args:
        operator: one of `STOPPING`.

    Preconditions: values have their shapes.
    Postconditions: no such operator reads a tensor that OpenVINO could have in integers. Names and results stay.
    """

    everywhere = True

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = operator

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        data = node.inputs[0]
        if data is None or _IS_RIGHT[self.operator](node, data):
            raise NotApplicable("the integer kernel is right")
        if not may_be_integers(data):
            raise NotApplicable("it reads floats")
        kept = in_floats(graph, data, f"{node.outputs[0].name}.float")
        graph.insert_before(node, [kept])
        node.replace_input_with(0, kept.outputs[0])


def in_floats(graph: ir.Graph, value: ir.Value, name: str) -> ir.Node:
    """Makes a ``Max`` of a value with the lowest number, which OpenVINO moves no Q or DQ across; it is not inserted."""
    kept = new_node("Max", [value, initializer(graph, f"{name}.lowest", _LOWEST)], name=name, output=name)
    kept.outputs[0].type, kept.outputs[0].shape = value.type, value.shape
    return kept


def _is_right_mean(node: ir.Node, data: ir.Value) -> bool:
    return data.shape is not None and (len(data.shape) != 3 or data.shape[0] == 1)


def _is_right_global_pooling(node: ir.Node, data: ir.Value) -> bool:
    if _is_right_mean(node, data):
        return True
    batch, channels = data.shape[:2] if data.shape is not None else (None, None)
    return channels == 1 or (isinstance(batch, int) and isinstance(channels, int) and batch <= channels)


def _is_right_pooling(node: ir.Node, data: ir.Value) -> bool:
    padded = any(node.attributes.get_ints("pads", ())) or "SAME" in node.attributes.get_string("auto_pad", "NOTSET")
    return not padded or node.attributes.get_int("count_include_pad", 0) == 0


def _is_right_convolution(node: ir.Node, data: ir.Value) -> bool:
    if limit_of(node, {"groups-of-many-outputs"}) is None or not may_be_integers(node.inputs[1]):
        return True
    source = dequantizer(data)
    zero = stored_constant(source.inputs[2]) if source is not None else None
    return zero is not None and not zero.numpy().any()


def _is_right_padding(node: ir.Node, data: ir.Value) -> bool:
    if node.attributes.get_string("mode", "constant") != "constant":
        return True
    fill = node.inputs[2] if len(node.inputs) > 2 else None
    tensor = stored_constant(fill)
    zero = fill is None or (tensor is not None and not tensor.numpy().any())
    return zero and not _lengthens_one(node, data)


def _lengthens_one(node: ir.Node, data: ir.Value) -> bool:
    """Whether a Pad lengthens an axis of one element, or one whose size is not known."""
    pads, axes = (stored_constant(node.inputs[index]) if len(node.inputs) > index else None for index in (1, 3))
    if pads is None or data.shape is None:
        return True
    around: list[bool] = np.atleast_1d(pads.numpy().reshape(2, -1).any(axis=0)).tolist()
    padded = range(len(around)) if axes is None else axes.numpy().tolist()
    sizes = [data.shape[axis] for axis, wide in zip(padded, around, strict=True) if wide]
    return any(not isinstance(size, int) or size == 1 for size in sizes)


_IS_RIGHT = {
    "AveragePool": _is_right_pooling,
    "Conv": _is_right_convolution,
    "GlobalAveragePool": _is_right_global_pooling,
    "Pad": _is_right_padding,
    "ReduceMean": _is_right_mean,
    "ReduceSum": _is_right_mean,
}


def may_be_integers(value: ir.Value | None) -> bool:
    """Whether OpenVINO could have a value in integers: it is dequantized, and perhaps moved."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in _MOVED_ACROSS:
        before = [each for each in node.inputs if each is not None and each.const_value is None]
        node = before[0].producer() if before else None
    return node is not None and node.op_type == "DequantizeLinear"
