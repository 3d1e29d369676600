"""Finds the quantized values of a graph, between QuantizeLinear and DequantizeLinear, and what they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

__all__ = ["Quantization", "data_inputs", "quantized_value", "quantized_values"]

_MOVES = frozenset(
    "Concat DepthToSpace Expand Flatten Gather GatherElements GatherND Identity MaxPool Pad Reshape Resize Slice "
    "SpaceToDepth Split Squeeze Tile Transpose Unsqueeze".split()
)
"""Operators that place elements elsewhere, or take the largest: the same on integers and on what these stand for."""


@dataclass(frozen=True, eq=False)
class Quantization:
    """What integers stand for: ``(integer - zero) * scale``.

    Attributes:
        dtype: type of the integers.
        scale: one number; one for each index of ``axis``; or one for each block along it.
        zero: zero points, in the shape of ``scale``.
        axis: axis of several scales.
        block: number of elements that share a scale; 0 if there are no blocks.
    """

    dtype: ir.DataType
    scale: np.ndarray
    zero: np.ndarray
    axis: int = 1
    block: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether there is one scale for all elements."""
        return self.scale.size == 1 and not self.block

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the greatest integer of the type."""
        bits = self.dtype.bitwidth
        return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if self.dtype.is_signed() else (0, 2**bits - 1)

    def same_as(self, other: Quantization) -> bool:
        """Whether the same integers stand for the same numbers."""
        if self.dtype != other.dtype or self.scale.size != other.scale.size or self.block != other.block:
            return False
        if not self.is_plain and self.axis != other.axis:
            return False
        pairs = ((self.scale, other.scale), (self.zero, other.zero))
        return all(np.array_equal(mine.reshape(-1), others.reshape(-1)) for mine, others in pairs)

    def along_axis(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns scales and zero points in float64, in a shape that broadcasts to a tensor of ``rank`` axes."""
        shape = [1] * rank
        if self.scale.size > 1:
            shape[self.axis] = -1
        scale, zero = (each.astype(np.float64).reshape(shape) for each in (self.scale, self.zero))
        return scale, zero

    def numbers_of(self, integers: np.ndarray) -> np.ndarray:
        """Returns the numbers that integers stand for, in the type of the scale."""
        if self.block:
            parts = [np.repeat(each.astype(np.float64), self.block, self.axis) for each in (self.scale, self.zero)]
            scale, zero = (each[tuple(slice(size) for size in integers.shape)] for each in parts)
        else:
            scale, zero = self.along_axis(integers.ndim)
        return np.asarray((integers.astype(np.float64) - zero) * scale, self.scale.dtype)


def quantized_value(pair: ir.Node) -> ir.Value:
    """Returns what a QuantizeLinear makes, or a DequantizeLinear reads."""
    value = pair.inputs[0] if pair.op_type == "DequantizeLinear" else pair.outputs[0]
    assert value is not None
    return value


def quantized_values(
    graph: ir.Model, types: frozenset[ir.DataType] | None = None
) -> Mapping[ir.Value, Quantization] | None:
    """Returns the quantization of each value, constants too, that holds quantized numbers; inputs and outputs too.

    None if one is read or computed by another operator than QuantizeLinear, DequantizeLinear and those that move
    elements, or if its readers disagree about what its integers stand for.

    Args:
        graph: values have their types and ranks.
        types: element types of the values that are wanted; None: all.
    """
    found: dict[ir.Value, Quantization] = {}
    for node in graph.graph.all_nodes():
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        value = quantized_value(node)
        if types is not None and value.dtype not in types:
            continue
        quantization = _of_node(node, value)
        if quantization is None or not _spread(value, quantization, found):
            return None
    return found


def _spread(value: ir.Value, quantization: Quantization, found: dict[ir.Value, Quantization]) -> bool:
    """Adds a value, and all that its integers come from and go to; returns whether all agree."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if value in found:
            if not found[value].same_as(quantization):
                return False
            continue
        found[value] = quantization
        neighbors = _neighbors(value, quantization)
        if neighbors is None:
            return False
        waiting += neighbors
    return True


def _neighbors(value: ir.Value, quantization: Quantization) -> list[ir.Value] | None:
    """Returns the values that hold the same integers, before and behind; None if something else uses the integers."""
    found: list[ir.Value] = []
    producer = value.producer()
    if producer is not None and producer.op_type != "QuantizeLinear":
        before = data_inputs(producer) if quantization.is_plain else []
        if not before or value is not producer.outputs[0] and producer.op_type != "Split":
            return None
        found += [each for index in before if (each := producer.inputs[index]) is not None]
    for reader, index in value.uses():
        if reader.op_type == "DequantizeLinear" and index == 0:
            continue
        if index not in data_inputs(reader) or not quantization.is_plain:
            return None
        found += reader.outputs if reader.op_type == "Split" else reader.outputs[:1]
    return found


def data_inputs(node: ir.Node) -> list[int]:
    """Returns the inputs whose elements a node moves; none if it computes."""
    if node.op_type not in _MOVES or (
        node.op_type == "Resize" and node.attributes.get_string("mode", "nearest") != "nearest"
    ):
        return []
    if node.op_type == "Concat":
        return list(range(len(node.inputs)))
    if node.op_type == "Pad" and len(node.inputs) > 2 and node.inputs[2] is not None:
        return [0, 2]
    return [0]


def _of_node(node: ir.Node, integers: ir.Value) -> Quantization | None:
    """Returns what a QuantizeLinear makes, or a DequantizeLinear reads; None if its scale or zero point is computed."""
    scale, zero = (_array(node.inputs[index] if index < len(node.inputs) else None) for index in (1, 2))
    omitted = len(node.inputs) < 3 or node.inputs[2] is None
    if scale is None or (zero is None and not omitted) or integers.dtype is None:
        return None
    rank = len(integers.shape) if integers.shape is not None else None
    axis, block = node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)
    if scale.size > 1 and rank is None:
        return None
    zero = np.zeros(scale.shape) if zero is None else zero.astype(np.float64)
    return Quantization(integers.dtype, scale, zero, axis % rank if scale.size > 1 and rank else axis, block)


def _array(value: ir.Value | None) -> np.ndarray | None:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else np.asarray(tensor.numpy())
