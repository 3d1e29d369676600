"""Finds the constants that have to be divided so that the last axis of a tensor is, and divides them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgekit.graph.stats import MADE_OF
from edgekit.quantize.selections import SELECTIONS

__all__ = ["Before", "Constant", "constants_before", "divide_constants", "keeps_last_axis"]


class Constant(NamedTuple):
    """A constant input of a node; ``axis`` are the channels. A constant of one element is the same for all of them."""

    node: ir.Node
    place: int
    axis: int


class Before(NamedTuple):
    """What is divided together with a tensor.

    Attributes:
        constants: these have to be divided.
        divided: the tensors whose channels are divided then.
    """

    constants: list[Constant]
    divided: list[ir.Value]


def constants_before(value: ir.Value) -> Before | None:
    """Finds what to divide so that each channel of ``value`` is, and nothing else changes.

    These are the weights of a normalization, as one operator or as ``Mul`` and ``Add`` behind it; the columns of the
    product before it, also before a Relu; and one factor of an elementwise product, as in a gated feed-forward layer.

    Args:
        value: a tensor whose readers multiply the channels again.

    Returns:
        None if there are no such constants, or other nodes read what they change.
    """
    node = value.producer()
    if node is None:
        return None
    if node.op_type in ("LayerNormalization", "RMSNormalization"):
        return _of_normalization(node, value)
    if node.op_type in ("Mul", "Add"):
        return _of_elementwise(node, value)
    if node.op_type in ("MatMul", "Gemm"):
        return _of_product(node, value)
    if node.op_type in ("LeakyRelu", "Relu") or keeps_last_axis(node):
        return _through(node.inputs[0], value)
    return None


def keeps_last_axis(node: ir.Node) -> bool:
    """Whether the node only moves or selects elements, and each stays at its index of the last axis."""
    if node.op_type not in SELECTIONS - {"MaxPool", "Resize", "Upsample"} or len(node.outputs) != 1:
        return False
    before, after = node.inputs[0], node.outputs[0]
    if before is None or before.shape is None or after.shape is None or not before.shape or not after.shape:
        return False
    if not isinstance(before.shape[-1], int) or before.shape[-1] != after.shape[-1]:
        return False
    if node.op_type == "Transpose":
        return tuple(node.attributes.get_ints("perm", ()))[-1:] == (len(before.shape) - 1,)
    # A slice of the last axis may be as long as the axis: one in reverse.
    return node.op_type != "Slice" or _slices_others(node, len(before.shape))


def _slices_others(node: ir.Node, rank: int) -> bool:
    axes = node.inputs[3] if len(node.inputs) > 3 else None
    if axes is None or axes.const_value is None:
        return False
    return all(int(axis) % rank != rank - 1 for axis in axes.const_value.numpy().reshape(-1))


def divide_constants(graph: ir.Model, constants: list[Constant], factors: np.ndarray) -> None:
    """Divides constants by a factor for each channel; other readers of a constant keep it as it was.

    Args:
        graph: the graph; changed in place.
        constants: what to divide.
        factors: float32 ``(C,)``.
    """
    for node, index, axis in constants:
        value = node.inputs[index]
        assert value is not None and value.const_value is not None
        array = value.const_value.numpy()
        shape = [1] * max(array.ndim, 1)
        shape[axis] = -1
        divided = (array / factors.reshape(shape)).astype(array.dtype)
        if len(value.uses()) == 1 and not value.is_graph_output():
            value.const_value, value.shape = ir.tensor(divided, name=value.name), ir.Shape(divided.shape)
            continue
        name = f"{value.name}_of_{node.name}"
        own = ir.val(name, const_value=ir.tensor(divided, name=name))
        own.metadata_props[MADE_OF] = value.metadata_props.get(MADE_OF) or value.name or ""
        graph.graph.register_initializer(own)
        node.replace_input_with(index, own)


def _through(before: ir.Value | None, value: ir.Value) -> Before | None:
    """Returns what to divide before the tensor that ``value`` is computed from."""
    if before is None or len(before.uses()) != 1 or before.is_graph_output():
        return None
    found = constants_before(before)
    return Before(found.constants, [*found.divided, value]) if found is not None else None


def _of_normalization(node: ir.Node, value: ir.Value) -> Before | None:
    width = _width(value)
    parts = [Constant(node, index, -1) for index in (1, 2) if index < len(node.inputs) and node.inputs[index]]
    whole = all(_is_vector(part.node.inputs[part.place], width) for part in parts)
    return Before(parts, [value]) if parts and whole else None


def _of_elementwise(node: ir.Node, value: ir.Value) -> Before | None:
    width = _width(value)
    constants = [index for index in (0, 1) if _is_vector(node.inputs[index], width)]
    if node.op_type == "Mul" and constants:
        return Before([Constant(node, constants[0], -1)], [value])
    if node.op_type == "Mul":
        if node.inputs[0] is node.inputs[1]:
            return None
        found = (_through(side, value) for side in node.inputs if _width(side) == width)
        return next((before for before in found if before is not None), None)
    if len(constants) != 1:
        return None
    before = _through(node.inputs[1 - constants[0]], value)
    if before is None or _width(node.inputs[1 - constants[0]]) != width:
        return None
    return Before([*before.constants, Constant(node, constants[0], -1)], before.divided)


def _of_product(node: ir.Node, value: ir.Value) -> Before | None:
    weight = node.inputs[1]
    if weight is None or not _is_own(weight) or weight.const_value is None or len(weight.const_value.shape) != 2:
        return None
    transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) != 0
    parts = [Constant(node, 1, 0 if transposed else 1)]
    if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
        if not _is_vector(node.inputs[2], _width(value)):
            return None
        parts.append(Constant(node, 2, -1))
    return Before(parts, [value])


def _is_vector(value: ir.Value | None, width: int | None) -> bool:
    """Whether a constant has one number, or one for each channel."""
    if value is None or width is None or value.const_value is None or not _is_own(value):
        return False
    shape = tuple(value.const_value.shape.numpy())
    return not shape or (shape[-1] in (1, width) and all(size == 1 for size in shape[:-1]))


def _is_own(value: ir.Value) -> bool:
    return not value.is_graph_input() and value.dtype == ir.DataType.FLOAT


def _width(value: ir.Value | None) -> int | None:
    size = value.shape[-1] if value is not None and value.shape else None
    return size if isinstance(size, int) else None
