"""Counts what a graph costs, layer by layer and as the textbooks do it: parameters, multiply-accumulates and bytes.

**A full layer** maps ``n_in`` numbers to ``n_out``. Each output is ``b + sum of w_i * x_i`` over all inputs, so it has
``n_in`` weights and one bias of its own, and takes ``n_in`` multiply-accumulates (MACs)::

    parameters = n_in * n_out + n_out
    macs       = n_in * n_out                        for each row of the batch, or token of the sequence

**A convolution** is a full layer that looks at a window of ``k_h x k_w`` pixels and is moved over the image. In the
window there are ``k_h * k_w * c_in`` numbers; where the channels are in ``groups``, a channel of the output sees those
of its own group alone. As the same weights serve at every place, parameters do not depend on the size of the image,
and MACs are those of one place times the number of places, the pixels of the *output*::

    weights    = k_h * k_w * (c_in / groups) * c_out
    biases     = c_out
    macs       = h_out * w_out * weights             h_out = (h_in + padding - dilation * (k_h - 1) - 1) // stride + 1

With ``groups = c_in = c_out`` this is a depthwise convolution, ``k_h * k_w * c`` weights; with a kernel of 1 x 1 it is
a full layer at each pixel; with a kernel as large as the image it is the full layer of above. The bias costs no MAC:
the accumulator starts with it. **Transposed**, each pixel of the *input* is spread over a window of the output::

    macs       = h_in * w_in * k_h * k_w * c_in * (c_out / groups)

**Batch normalization** learns a factor and an offset a channel, ``2 * c``; mean and variance are statistics. In a
graph it has become part of the convolution before it and still counts here. **Layer normalization** learns ``2 * d``,
an **embedding** ``vocabulary * d`` and costs no MAC, as a row is looked up.

**A recurrent layer** computes, at each of ``t`` steps, each of its ``g`` gates (4 in an LSTM, 3 in a GRU, 1 in a plain
RNN) from the ``d`` numbers of the input and the ``h`` of its state::

    parameters = g * (h * d + h * h + 2 * h)         two biases a gate, as cuDNN, PyTorch and ONNX have it
    macs       = t * g * (h * d + h * h)

**Attention** of ``s`` queries over ``t`` keys, ``d`` numbers wide in all heads together, learns four full layers (of
queries, keys, values and of the result), and multiplies activations with each other: each query with each key, then
each weight with each value. How many heads share ``d`` makes no difference::

    parameters = 4 * (d * d + d)
    macs       = 2 * d * d * (s + t) + 2 * s * t * d

Two operations are one MAC. Everything else (activations, pooling, normalization, softmax) counts no MAC: it is linear
in the number of activations, and its time goes to reading and writing them, which is why bytes are counted too.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Sequence

import msgspec
import onnx_ir as ir

from edgekit.graph.element_types import (
    FLOATS,
    carries_type,
    computed_of,
    constant_of,
    precision_of,
    read_type,
    written_type,
)
from edgekit.graph.products import PRODUCTS, macs_of
from edgekit.specs import Precision

__all__ = [
    "FOLDED_PARAMETERS",
    "MADE_OF",
    "PADDED_CHANNELS",
    "CONSTANT_INPUTS",
    "GraphStats",
    "LayerStats",
    "stats_from_graph",
]

FOLDED_PARAMETERS = "edgekit.folded_parameters"
"""A node's remark: how many more parameters it had learned than it holds, since a normalization was folded into it."""
MADE_OF = "edgekit.made_of"
"""A remark of what dequantizes a constant: the one it was made of, which others may read, and which counts once."""
CONSTANT_INPUTS = "edgekit.constant_inputs"
"""A node's remark: which of its inputs, counted from zero, are constants that were never learned."""
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
        kernel: of a convolution or a pool: the size of its window.
        strides: how far that moves; empty where by one.
        reads: names of the values that it reads and that are computed or fed in, seen through Q, DQ and casts.
        writes: names of its values, and of the graph's outputs that Q, DQ and casts alone make of them.
        module: path of the module that it came from, where its exporter tells; empty where its name does.
    """

    name: str
    operator: str
    output_shape: tuple[int, ...]
    precision: str
    parameters: int
    macs: int
    weight_bytes: int
    activation_bytes: int
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    module: str = ""


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


def stats_from_graph(
    graph: ir.Model,
    *,
    precision: Precision | None = None,
) -> GraphStats:
    """Counts parameters, multiply-accumulates and bytes; the formulas stand at the top of this file.

    A value that goes into a QuantizeLinear and nowhere else is written as integers, and one out of a DequantizeLinear
    is read as integers: that is what engines make of explicit Q/DQ.

    Args:
        graph: shapes have been inferred; a dynamic dimension counts as 1 (`edgekit.graph.sizes` knows better).
        precision: bytes are those that a float graph would have in it. In INT8 every activation and every factor of a
            product is one byte, and what stays in float is four: biases, which are added to sums of 32 bits, and the
            constants of all that is no product. None counts what the graph has.
    """
    known = _Sizes(precision)
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

    def __init__(self, precision: Precision | None) -> None:
        self.precision = precision
        self.assumed: dict[str, int] = {}

    def of(self, value: ir.Value | None) -> tuple[int, ...]:
        shape = value.shape if value is not None else None
        if value is not None and shape is None and value.const_value is not None:
            return tuple(value.const_value.shape.numpy())
        return tuple(self._size(dim) for dim in shape or ())

    def type_of(self, dtype: ir.DataType | None, *, constant: bool = False) -> ir.DataType | None:
        """The element type that counts; a ``constant`` here is one that INT8 leaves in float."""
        if self.precision is None or dtype not in FLOATS:
            return dtype
        return ir.DataType.FLOAT if constant and self.precision is Precision.INT8 else _TYPES[self.precision]

    def nbytes(self, value: ir.Value, dtype: ir.DataType | None) -> int:
        """Length of the value in that element type; 0 where its shape or type is unknown."""
        known_shape = value.shape is not None or value.const_value is not None
        if dtype is None or dtype == ir.DataType.STRING or not known_shape:
            return 0
        return math.ceil(math.prod(self.of(value)) * dtype.itemsize)

    def _size(self, dim: int | ir.SymbolicDim) -> int:
        if isinstance(dim, int):
            return dim
        return self.assumed.setdefault(str(dim.value or "unnamed"), 1)


_TYPES = {
    Precision.FP32: ir.DataType.FLOAT,
    Precision.FP16: ir.DataType.FLOAT16,
    Precision.BF16: ir.DataType.BFLOAT16,
    Precision.INT8: ir.DataType.INT8,
}


def _layer(node: ir.Node, sizes: _Sizes, counted: set[str]) -> LayerStats:
    read = [value for value in node.inputs if value is not None]
    constants = [value for value in read if constant_of(value) is not None]
    activations = [value for value in read if constant_of(value) is None]
    factors = {node.inputs[index] for index in PRODUCTS.get(node.op_type, ())}
    learned = sum(_new_parameters(value, counted) for value in _learned_inputs(node))
    learned += int(node.metadata_props.get(FOLDED_PARAMETERS, 0))
    zeros = _zeros(node, sizes)
    return LayerStats(
        name=node.name or "",
        operator=node.op_type,
        output_shape=sizes.of(node.outputs[0]) if node.outputs else (),
        precision=_precision(node, sizes),
        parameters=learned - zeros,
        macs=macs_of(node, sizes.of, zeros),
        weight_bytes=sum(
            sizes.nbytes(value, sizes.type_of(read_type(value), constant=value not in factors)) for value in constants
        ),
        activation_bytes=sum(sizes.nbytes(value, sizes.type_of(read_type(value))) for value in activations)
        + sum(sizes.nbytes(value, sizes.type_of(written_type(value))) for value in node.outputs),
        kernel=_kernel(node, sizes),
        strides=tuple(stride) if max(stride := node.attributes.get_ints("strides", ()), default=1) > 1 else (),
        reads=tuple(dict.fromkeys(computed_of(value).name or "" for value in (*activations, *_captured(node)))),
        writes=tuple(dict.fromkeys(name for value in node.outputs for name in _names(value))),
        module=_module(node),
    )


def _precision(node: ir.Node, sizes: _Sizes) -> str:
    if sizes.precision is not None and node.outputs and node.outputs[0].dtype in FLOATS:
        return str(_TYPES[sizes.precision].numpy())
    return precision_of(node, products=PRODUCTS)


def _kernel(node: ir.Node, sizes: _Sizes) -> tuple[int, ...]:
    told = tuple(node.attributes.get_ints("kernel_shape", ()))
    return told or (sizes.of(node.inputs[PRODUCTS[node.op_type][1]])[2:] if "Conv" in node.op_type else ())


def _captured(node: ir.Node) -> Iterator[ir.Value]:
    """What the branches of an If or the body of a Loop read of the graph around them."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in attribute.as_graph().all_nodes():
                for value in inner.inputs:
                    if value is not None and constant_of(value) is None and value.graph is node.graph:
                        yield value


def _names(value: ir.Value) -> Iterator[str]:
    """Of the value, and of the graph's outputs that it is but for their element type."""
    yield value.name or ""
    typed = [made for use in value.uses() if carries_type(use.node) for made in use.node.outputs]
    for made in typed:
        yield from (name for name in _names(made) if made.is_graph_output() or name != made.name)


def _module(node: ir.Node) -> str:
    """The innermost module of a graph that PyTorch has exported and nobody has named after its modules."""
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
    names = [name for name in ast.literal_eval(scopes)[:-1] if name] if scopes.startswith("[") else []
    return str(names[-1]) if names else ""


_SETTINGS = frozenset({"Clip", "NonMaxSuppression", "OneHot", "Pad", "Range", "Resize", "Upsample"})
"""Operators whose constant inputs are settings, not learned."""

_LEARNED = {
    "BatchNormalization": slice(0, 3),
    "GRU": slice(0, 4),
    "LSTM": slice(0, 4),
    "MatMulIntegerToFloat": slice(1, 7, 5),
    "RNN": slice(0, 4),
    "QLinearConv": slice(3, 9, 5),
    "QLinearMatMul": slice(3, 4),
}
"""Where others than constants are learned: mean and variance are statistics, scales and zero points are conventions."""


def _learned_inputs(node: ir.Node) -> Sequence[ir.Value | None]:
    if node.op_type in _SETTINGS:
        return ()
    unlearned = node.metadata_props.get(CONSTANT_INPUTS, "").split(",")
    inputs = [None if str(index) in unlearned else value for index, value in enumerate(node.inputs)]
    return inputs[_LEARNED.get(node.op_type, slice(None))]


def _new_parameters(value: ir.Value | None, counted: set[str]) -> int:
    """Elements of an initializer at its first reader; integers of 64 bits are shapes and axes, not learned."""
    constant = None if value is None else constant_of(value)
    if value is None or constant is None or constant.const_value is None:
        return 0
    producer = value.producer()
    name = (producer.metadata_props.get(MADE_OF) if producer is not None else None) or constant.name or ""
    if name in counted or constant.const_value.dtype in (ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.STRING):
        return 0
    counted.add(name)
    return int(constant.const_value.size)


def _zeros(node: ir.Node, sizes: _Sizes) -> int:
    """How many weights of a convolution stand at channels of zeros."""
    padded = int(node.metadata_props.get(PADDED_CHANNELS, 0))
    weight = sizes.of(node.inputs[1]) if padded else ()
    return padded * math.prod(weight) // weight[1] if weight else 0
