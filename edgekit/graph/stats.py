"""Counts what a graph costs: parameters, multiply-accumulates and bytes, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import onnx_ir as ir

from edgekit.graph.element_types import carries_type, constant_of, precision_of, read_type, written_type

__all__ = ["FOLDED_PARAMETERS", "PADDED_CHANNELS", "GraphStats", "LayerStats", "stats_from_graph"]

FOLDED_PARAMETERS = "edgekit.folded_parameters"
"""A node's remark: how many more parameters it had learned than it holds, since a normalization was folded into it."""
PADDED_CHANNELS = "edgekit.padded_channels"
"""A convolution's remark: how many of the channels that it reads are zeros, which a kernel wants; they do not count."""


class LayerStats(msgspec.Struct, frozen=True, kw_only=True):
    """One node.

    Attributes:
        name: the node's name.
        operator: ONNX's name of what it does.
        output_shape: of its first output; empty where unknown.
        precision: numpy's name of the element type that it computes in; ``int8``, signed or not, between Q and DQ.
        parameters: learned numbers that it reads first among all nodes, a folded normalization's with them.
        macs: multiply-accumulates; 0 for operators that are not products.
        weight_bytes: length of the constants that it reads, in the element type in which it reads them.
        activation_bytes: length of the values that it reads and of those that it writes, as if it stood alone.
    """

    name: str
    operator: str
    output_shape: tuple[int, ...]
    precision: str
    parameters: int
    macs: int
    weight_bytes: int
    activation_bytes: int


class GraphStats(msgspec.Struct, frozen=True, kw_only=True):
    """A graph's totals and its layers in the order in which they run.

    Attributes:
        parameters: learned weights and biases; each initializer counts once, however many read it.
        macs: multiply-accumulates of one run.
        weight_bytes: length of all initializers as they are stored.
        activation_bytes: what all layers read and write, as if none were fused with another.
        assumed_sizes: the size each dynamic dimension was counted with.
        layers: one row a node, save those that only give a value its element type: Q, DQ and casts between floats.
    """

    parameters: int
    macs: int
    weight_bytes: int
    activation_bytes: int
    assumed_sizes: dict[str, int]
    layers: tuple[LayerStats, ...]


def stats_from_graph(graph: ir.Model, *, dynamic_size: int = 1, sizes: Mapping[str, int] | None = None) -> GraphStats:
    """Counts parameters, multiply-accumulates and bytes.

    A convolution with kernel ``k_h x k_w``, ``c_in`` input and ``c_out`` output channels in ``groups`` has a
    weight for each kernel cell, each input channel of the group and each output channel, and a bias for each
    output channel::

        parameters = k_h * k_w * (c_in / groups) * c_out + c_out

    Each pixel of each output channel is a sum of ``k_h * k_w * c_in / groups`` products, and the addition of the
    bias is free, as the accumulator starts with it::

        macs(Conv)          = N * h_out * w_out * c_out * k_h * k_w * c_in / groups

    A ConvTranspose spreads each pixel of each input channel over the kernel and the group's output channels; so
    it is the input that counts::

        macs(ConvTranspose) = N * h_in * w_in * c_in * k_h * k_w * c_out / groups

    A matrix product of ``(..., m, k)`` and ``(..., k, n)`` has ``k`` products for each number of its output::

        macs(Gemm, MatMul)  = elements of the output * k

    Everything else counts no multiply-accumulate. Products on integers (``QLinearConv`` and the like) count as
    their float counterparts.

    A value that goes into a QuantizeLinear and nowhere else is written as integers, and one out of a DequantizeLinear
    is read as integers: that is what engines make of explicit Q/DQ.

    Args:
        graph: shapes have been inferred.
        dynamic_size: what a dynamic dimension, such as the batch, is counted with.
        sizes: the same for dimensions of these names.
    """
    known = _Sizes(dynamic_size, sizes or {})
    counted: set[str] = set()
    layers = tuple(_layer(node, known, counted) for node in graph.graph if not carries_type(node))
    tensors = [value.const_value for value in graph.graph.initializers.values() if value.const_value is not None]
    return GraphStats(
        parameters=sum(layer.parameters for layer in layers),
        macs=sum(layer.macs for layer in layers),
        weight_bytes=sum(tensor.nbytes for tensor in tensors),
        activation_bytes=sum(layer.activation_bytes for layer in layers),
        assumed_sizes=known.assumed,
        layers=layers,
    )


class _Sizes:
    """Shapes as numbers; remembers which dimensions had none of their own."""

    def __init__(self, dynamic_size: int, sizes: Mapping[str, int]) -> None:
        self._dynamic_size = dynamic_size
        self._sizes = sizes
        self.assumed: dict[str, int] = {}

    def of(self, value: ir.Value | None) -> tuple[int, ...]:
        shape = value.shape if value is not None else None
        if value is not None and shape is None and value.const_value is not None:
            return tuple(value.const_value.shape.numpy())
        return tuple(self._size(dim) for dim in shape or ())

    def nbytes(self, value: ir.Value, dtype: ir.DataType | None) -> int:
        """Length of the value in that element type; 0 where its shape or type is unknown."""
        known_shape = value.shape is not None or value.const_value is not None
        if dtype is None or dtype == ir.DataType.STRING or not known_shape:
            return 0
        return math.ceil(math.prod(self.of(value)) * dtype.itemsize)

    def _size(self, dim: int | ir.SymbolicDim) -> int:
        if isinstance(dim, int):
            return dim
        name = str(dim.value or "unnamed")
        return self.assumed.setdefault(name, self._sizes.get(name, self._dynamic_size))


def _layer(node: ir.Node, sizes: _Sizes, counted: set[str]) -> LayerStats:
    read = [value for value in node.inputs if value is not None]
    constants = [value for value in read if constant_of(value) is not None]
    activations = [value for value in read if constant_of(value) is None]
    learned = sum(_new_parameters(value, counted) for value in _learned_inputs(node))
    learned += int(node.metadata_props.get(FOLDED_PARAMETERS, 0))
    return LayerStats(
        name=node.name or "",
        operator=node.op_type,
        output_shape=sizes.of(node.outputs[0]) if node.outputs else (),
        precision=precision_of(node, products=_PRODUCTS),
        parameters=learned - _zeros(node, sizes),
        macs=_macs(node, sizes),
        weight_bytes=sum(sizes.nbytes(value, read_type(value)) for value in constants),
        activation_bytes=sum(sizes.nbytes(value, read_type(value)) for value in activations)
        + sum(sizes.nbytes(value, written_type(value)) for value in node.outputs),
    )


_SETTINGS = frozenset({"Clip", "NonMaxSuppression", "OneHot", "Pad", "Range", "Resize", "Upsample"})
"""Operators whose constant inputs are settings, not learned."""

_LEARNED = {"BatchNormalization": slice(0, 3), "QLinearConv": slice(3, 9, 5), "QLinearMatMul": slice(3, 4)}
"""Where others than constants are learned: mean and variance are statistics, scales and zero points are conventions."""


def _learned_inputs(node: ir.Node) -> Sequence[ir.Value | None]:
    if node.op_type in _SETTINGS:
        return ()
    return node.inputs[_LEARNED.get(node.op_type, slice(None))]


def _new_parameters(value: ir.Value | None, counted: set[str]) -> int:
    """Elements of an initializer at its first reader; integers of 64 bits are shapes and axes, not learned."""
    constant = None if value is None else constant_of(value)
    if constant is None or constant.const_value is None or constant.name in counted:
        return 0
    if constant.const_value.dtype in (ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.STRING):
        return 0
    counted.add(constant.name or "")
    return int(constant.const_value.size)


_PRODUCTS = {
    "Conv": (0, 1),
    "ConvInteger": (0, 1),
    "QLinearConv": (0, 3),
    "ConvTranspose": (0, 1),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearMatMul": (0, 3),
}
"""Where each product has its two factors among its inputs."""


def _macs(node: ir.Node, sizes: _Sizes) -> int:
    if node.op_type not in _PRODUCTS:
        return 0
    left, right = (sizes.of(node.inputs[index]) for index in _PRODUCTS[node.op_type])
    if not left or not right:
        return 0
    if node.op_type == "ConvTranspose":
        return math.prod(left) * math.prod(right[1:])
    if "Conv" in node.op_type:
        return math.prod(sizes.of(node.outputs[0])) * (math.prod(right[1:]) - _zeros(node, sizes) // right[0])
    return math.prod(sizes.of(node.outputs[0])) * _inner_size(node, left)


def _zeros(node: ir.Node, sizes: _Sizes) -> int:
    """How many weights of a convolution stand at channels of zeros."""
    padded = int(node.metadata_props.get(PADDED_CHANNELS, 0))
    weight = sizes.of(node.inputs[1]) if padded else ()
    return padded * math.prod(weight) // weight[1] if weight else 0


def _inner_size(product: ir.Node, left: Sequence[int]) -> int:
    transposed = product.op_type == "Gemm" and product.attributes.get_int("transA", 0) == 1
    return left[0] if transposed else left[-1]
