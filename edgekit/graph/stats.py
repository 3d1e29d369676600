"""Counts parameters, multiply-accumulates and bytes of a graph, per layer, with the textbook formulas.

**A fully connected layer** maps ``n_in`` numbers to ``n_out``. Each output is ``b + sum of w_i * x_i`` over all inputs,
so it has ``n_in`` weights and one bias of its own, and takes ``n_in`` multiply-accumulates (MACs)::

    parameters = n_in * n_out + n_out
    macs       = n_in * n_out                        for each row of the batch, or token of the sequence

**A convolution** is a fully connected layer that is applied to a window of ``k_h x k_w`` pixels at every position of
the image. The window has ``k_h * k_w * c_in`` numbers; with ``groups``, an output channel reads the input channels of
its own group only. All positions share the weights, so the parameters do not depend on the size of the image, and the
MACs are those of one position times the number of positions, the pixels of the *output*::

    weights    = k_h * k_w * (c_in / groups) * c_out
    biases     = c_out
    macs       = h_out * w_out * weights             h_out = (h_in + padding - dilation * (k_h - 1) - 1) // stride + 1

With ``groups = c_in = c_out`` this is a depthwise convolution with ``k_h * k_w * c`` weights; with a kernel of 1 x 1 it
is a fully connected layer at each pixel; with a kernel as large as the image it is the fully connected layer above. The
bias costs no MAC: the accumulator starts with it. In a **transposed convolution**, each pixel of the *input* adds to a
window of the output::

    macs       = h_in * w_in * k_h * k_w * c_in * (c_out / groups)

**Batch normalization** has a scale and a shift per channel, ``2 * c`` parameters; mean and variance are statistics and
do not count. In a graph it is folded into the convolution before it, but its parameters still count. **Layer
normalization** has ``2 * d`` parameters. An **embedding** has ``vocabulary * d`` and costs no MAC, because a row is
looked up.

**A recurrent layer** computes, at each of ``t`` steps, each of its ``g`` gates (4 in an LSTM, 3 in a GRU, 1 in a plain
RNN) from the ``d`` numbers of the input and the ``h`` numbers of its state::

    parameters = g * (h * d + h * h + 2 * h)         two biases per gate, as in cuDNN, PyTorch and ONNX
    macs       = t * g * (h * d + h * h)

**Attention** of ``s`` queries over ``t`` keys, with a total width of ``d`` over all heads, has four fully connected
layers (for queries, keys, values and the output), and multiplies activations with each other: each query with each key,
then each weight with each value. The number of heads makes no difference::

    parameters = 4 * (d * d + d)
    macs       = 2 * d * d * (s + t) + 2 * s * t * d

One MAC is two operations. All other operators (activations, pooling, normalization, softmax) count as no MACs: their
cost is linear in the number of activations, and they are bound by memory traffic, which is why bytes are counted too.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Sequence

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
from edgekit.graph.operators import INTEGER_PRODUCTS, INTEGER_RECURRENT, PRODUCTS, RECURRENT
from edgekit.kernels.sdpa.node import PLUGINS
from edgekit.specs import Precision

__all__ = [
    "CONSTANT_INPUTS",
    "FACTORS",
    "FOLDED_PARAMETERS",
    "MADE_OF",
    "PADDED_CHANNELS",
    "GraphStats",
    "LayerStats",
    "macs_of",
    "stats_from_graph",
]

FOLDED_PARAMETERS = "edgekit.folded_parameters"
"""Node metadata: number of parameters that were removed when a normalization was folded into the node."""
MADE_OF = "edgekit.made_of"
"""Metadata of a changed constant, or of the node that dequantizes one: name of the original, which counts once even if
shared."""
CONSTANT_INPUTS = "edgekit.constant_inputs"
"""Node metadata: indices of the inputs, from zero, that are constants and not parameters."""
PADDED_CHANNELS = "edgekit.padded_channels"
"""Metadata of a convolution: number of input channels that are zero padding for the kernel; they do not count."""


class LayerStats(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of one node.

    Attributes:
        name: name of the node.
        operator: ONNX operator.
        output_shape: shape of the first output; empty if unknown.
        precision: numpy's name of the element type that it computes in; ``int8``, signed or not, between Q and DQ.
        parameters: parameters that no earlier node reads, including those of a folded normalization.
        macs: multiply-accumulates; 0 for operators that are not products.
        weight_bytes: size of the constants that it reads, in the element type in which it reads them.
        activation_bytes: size of its non-constant inputs and its outputs, without fusion.
        kernel: window size of a convolution or pooling.
        strides: strides of the window; empty if all are 1.
        reads: names of its non-constant inputs, traced back through Q, DQ and casts.
        writes: names of its outputs, and of graph outputs derived from them by Q, DQ and casts alone.
        write_bytes: size of each of ``writes``, in the element type in which it is written.
        module: path of its module, if the exporter recorded one; empty if the node's name already gives it.
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
    write_bytes: tuple[int, ...] = ()
    module: str = ""


class GraphStats(msgspec.Struct, frozen=True, kw_only=True):
    """Totals of a graph and its layers in execution order.

    Attributes:
        parameters: weights and biases; a shared initializer counts once.
        macs: multiply-accumulates of one run.
        weight_bytes: size of all initializers as stored.
        activation_bytes: size of the activations that all layers read and write, without fusion.
        assumed_sizes: size used for each dynamic dimension.
        layers: one entry per node, except nodes that only change the element type: Q, DQ and casts between floats.
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
    """Counts parameters, multiply-accumulates and bytes; the formulas are in the docstring of this module.

    A value whose only users are QuantizeLinear nodes is written as integers, and the output of a DequantizeLinear is
    read as integers, because engines fuse explicit Q/DQ this way.

    Args:
        graph: a graph with inferred shapes; a dynamic dimension counts as 1 (see `edgekit.graph.sizes` for other
            sizes).
        precision: count the bytes that a float graph would have in this precision. In INT8, activations and factors of
            products have one byte; values that stay in float have four: biases, which are added to 32-bit sums, and
            the constants of other operators. None counts the graph's own element types.
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
    """Resolves shapes to numbers and records the sizes assumed for dynamic dimensions."""

    def __init__(self, precision: Precision | None) -> None:
        self.precision = precision
        self.assumed: dict[str, int] = {}

    def of(self, value: ir.Value | None) -> tuple[int, ...]:
        shape = value.shape if value is not None else None
        if value is not None and shape is None and value.const_value is not None:
            return tuple(value.const_value.shape.numpy())
        return tuple(self._size(dim) for dim in shape or ())

    def type_of(self, dtype: ir.DataType | None, *, constant: bool = False) -> ir.DataType | None:
        """Returns the element type to count; set ``constant`` for a constant that stays in float in INT8."""
        if self.precision is None or dtype not in FLOATS:
            return dtype
        return ir.DataType.FLOAT if constant and self.precision is Precision.INT8 else _TYPES[self.precision]

    def nbytes(self, value: ir.Value, dtype: ir.DataType | None) -> int:
        """Size of the value in that element type; 0 if its shape or type is unknown."""
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
    factors = {node.inputs[index] for index in FACTORS.get(node.op_type, ())}
    parameters = sum(_new_parameters(value, counted) for value in _parameter_inputs(node))
    parameters += int(node.metadata_props.get(FOLDED_PARAMETERS, 0))
    zeros = _zeros(node, sizes)
    written = {
        name: sizes.nbytes(value, sizes.type_of(written_type(value)))
        for value in node.outputs
        for name in _names(value)
    }
    return LayerStats(
        name=node.name or "",
        operator=node.op_type,
        output_shape=sizes.of(node.outputs[0]) if node.outputs else (),
        precision=_precision(node, sizes),
        parameters=parameters - zeros,
        macs=macs_of(node, sizes.of, zeros),
        weight_bytes=sum(
            sizes.nbytes(value, sizes.type_of(read_type(value), constant=value not in factors)) for value in constants
        ),
        activation_bytes=sum(sizes.nbytes(value, sizes.type_of(read_type(value))) for value in activations)
        + sum(sizes.nbytes(value, sizes.type_of(written_type(value))) for value in node.outputs),
        kernel=_kernel(node, sizes),
        strides=tuple(stride) if max(stride := node.attributes.get_ints("strides", ()), default=1) > 1 else (),
        reads=tuple(dict.fromkeys(computed_of(value).name or "" for value in (*activations, *_captured(node)))),
        writes=tuple(written),
        write_bytes=tuple(written.values()),
        module=_module(node),
    )


def _precision(node: ir.Node, sizes: _Sizes) -> str:
    if sizes.precision is not None and node.outputs and node.outputs[0].dtype in FLOATS:
        return str(_TYPES[sizes.precision].numpy())
    return precision_of(node)


def _kernel(node: ir.Node, sizes: _Sizes) -> tuple[int, ...]:
    declared = tuple(node.attributes.get_ints("kernel_shape", ()))
    return declared or (sizes.of(node.inputs[FACTORS[node.op_type][1]])[2:] if node.op_type in _CONVOLUTIONS else ())


def _captured(node: ir.Node) -> Iterator[ir.Value]:
    """Yields the outer values that the branches of an If or the body of a Loop read."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in attribute.as_graph().all_nodes():
                for value in inner.inputs:
                    if value is not None and constant_of(value) is None and value.graph is node.graph:
                        yield value


def _names(value: ir.Value) -> Iterator[str]:
    """Yields the names of the value and of graph outputs that differ from it only in element type."""
    yield value.name or ""
    typed = [value]
    while typed:
        made = [out for use in typed.pop().uses() if carries_type(use.node) for out in use.node.outputs]
        yield from (out.name or "" for out in made if out.is_graph_output())
        typed += made


def _module(node: ir.Node) -> str:
    """Returns the innermost module of a node exported by PyTorch that was not renamed after its module."""
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
    names = [name for name in ast.literal_eval(scopes)[:-1] if name] if scopes.startswith("[") else []
    return str(names[-1]) if names else ""


_SETTINGS = frozenset({"Clip", "NonMaxSuppression", "OneHot", "Pad", "Range", "Resize", "Upsample"})
"""Operators whose constant inputs are settings, not parameters."""

_LEARNED = {
    "BatchNormalization": slice(0, 3),
    "DynamicQuantizeLSTM": slice(0, 4),
    "GRU": slice(0, 4),
    "LSTM": slice(0, 4),
    "MatMulInteger": slice(0, 2),
    "MatMulIntegerToFloat": slice(1, 7, 5),
    "MatMulNBits": slice(1, 2),
    "RNN": slice(0, 4),
    "QLinearConv": slice(3, 9, 5),
    "QLinearMatMul": slice(3, 4),
}
"""Inputs that are parameters, if not all are: mean and variance are statistics; scales and zero points do not count."""


def _parameter_inputs(node: ir.Node) -> Sequence[ir.Value | None]:
    if node.op_type in _SETTINGS:
        return ()
    constants = node.metadata_props.get(CONSTANT_INPUTS, "").split(",")
    inputs = [None if str(index) in constants else value for index, value in enumerate(node.inputs)]
    return inputs[_LEARNED.get(node.op_type, slice(None))]


def _new_parameters(value: ir.Value | None, counted: set[str]) -> int:
    """Counts an initializer's elements at its first reader; 64-bit integers are shapes and axes, not parameters."""
    constant = None if value is None else constant_of(value)
    if value is None or constant is None or constant.const_value is None:
        return 0
    producer = value.producer()
    made_of = None if producer is None else producer.metadata_props.get(MADE_OF)
    name = made_of or constant.metadata_props.get(MADE_OF) or constant.name or ""
    if name in counted or constant.const_value.dtype in (ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.STRING):
        return 0
    counted.add(name)
    return int(constant.const_value.size)


def _zeros(node: ir.Node, sizes: _Sizes) -> int:
    """Number of a convolution's weights that belong to padded channels."""
    padded = int(node.metadata_props.get(PADDED_CHANNELS, 0))
    weight = sizes.of(node.inputs[1]) if padded else ()
    return padded * math.prod(weight) // weight[1] if weight else 0


Shape = tuple[int, ...]
ShapeOf = Callable[["ir.Value | None"], Shape]

FACTORS = {
    **dict.fromkeys(PRODUCTS | INTEGER_PRODUCTS, (0, 1)),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm"), (0, 3)),
    **dict.fromkeys(("DeformConv", "FusedConv", "FusedGemm", "MatMulNBits"), (0, 1)),
}
"""Where each product of two factors has them among its inputs."""
_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "ConvTranspose", "DeformConv", "FusedConv", "QLinearConv"})
_RECURRENT = INTEGER_RECURRENT | RECURRENT


def macs_of(node: ir.Node, shape_of: ShapeOf, zeros: int = 0) -> int:
    """Multiply-accumulates of one run of ``node``; 0 for operators that are no products, and where shapes are unknown.

    Products on integers (``QLinearConv`` and the like) count as their float counterparts.

    Args:
        node: any node.
        shape_of: sizes of a value, none where they are unknown.
        zeros: so many weights of a convolution are padding, and do not count.
    """
    if node.op_type in _RECURRENT:
        return _recurrent(node, shape_of)
    if node.op_type == "Attention" or node.op_type in PLUGINS:
        return _attention(node, shape_of)
    if node.op_type == "Einsum":
        return _einsum(node, shape_of)
    if node.op_type not in FACTORS:
        return 0
    left, right = (shape_of(node.inputs[index]) for index in FACTORS[node.op_type])
    if not left or not right:
        return 0
    if node.op_type == "ConvTranspose":
        return math.prod(left) * math.prod(right[1:])
    if node.op_type in _CONVOLUTIONS:
        return math.prod(shape_of(node.outputs[0])) * (math.prod(right[1:]) - zeros // right[0])
    return math.prod(shape_of(node.outputs[0])) * _inner_size(node, left)


def _inner_size(product: ir.Node, left: Sequence[int]) -> int:
    transposed = product.op_type in ("FusedGemm", "Gemm", "QGemm") and product.attributes.get_int("transA", 0) == 1
    return left[0] if transposed else left[-1]


def _recurrent(node: ir.Node, shape_of: ShapeOf) -> int:
    """Each step of each sequence multiplies input and state with all weights of all gates and directions."""
    sequence, of_input, of_state = (shape_of(value) for value in node.inputs[:3])
    return math.prod(sequence[:2]) * (math.prod(of_input) + math.prod(of_state)) if sequence else 0


def _attention(node: ir.Node, shape_of: ShapeOf) -> int:
    """Each number of a query meets each key, and each number of the result is a sum over all values."""
    query, key = shape_of(node.inputs[0]), shape_of(node.inputs[1])
    if not query or not key:
        return 0
    past = shape_of(node.inputs[4]) if len(node.inputs) > 4 else ()
    keys = key[-2] + (past[-2] if past else 0)
    return (math.prod(query) + math.prod(shape_of(node.outputs[0]))) * keys


def _einsum(node: ir.Node, shape_of: ShapeOf) -> int:
    """Each number of the output is a sum over all indices that it does not have."""
    if len(node.inputs) < 2:
        return 0
    read, _, written = node.attributes.get_string("equation", "").replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for term, value in zip(read.split(","), node.inputs, strict=True):
        first, _, last = term.partition("...")
        shape = shape_of(value)
        sizes |= dict(zip(first, shape, strict=False))
        sizes |= dict(zip(reversed(last), reversed(shape), strict=False))
    kept = written or "".join(index for index in sizes if read.count(index) == 1)
    return math.prod(shape_of(node.outputs[0])) * math.prod(size for index, size in sizes.items() if index not in kept)
