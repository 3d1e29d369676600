"""Element types in which nodes read, compute and write, derived from explicit Q/DQ and casts between floats."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.graph.operators import BIASED_PRODUCTS, INTEGER_PRODUCTS, INTEGER_RECURRENT, MOVES, PRODUCTS

__all__ = [
    "FLOATS",
    "carries_type",
    "computed_of",
    "computes_weights",
    "constant_of",
    "precision_of",
    "read_type",
    "written_type",
]

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
_BYTES = frozenset({ir.DataType.INT8, ir.DataType.UINT8})


def carries_type(node: ir.Node) -> bool:
    """Whether the node only changes the element type: Q, DQ, or a cast between floats."""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return True
    return node.op_type == "Cast" and all(
        value is not None and value.dtype in FLOATS for value in (node.inputs[0], node.outputs[0])
    )


def computed_of(value: ir.Value) -> ir.Value:
    """Traces a value back through Q, DQ and casts to the value as it was computed."""
    producer = value.producer()
    while producer is not None and carries_type(producer) and producer.inputs[0] is not None:
        value = producer.inputs[0]
        producer = value.producer()
    return value


def constant_of(value: ir.Value) -> ir.Value | None:
    """Traces ``value`` back through Q, DQ and casts to an initializer; None if it is not constant."""
    value = computed_of(value)
    return value if value.is_initializer() and value.const_value is not None else None


def computes_weights(node: ir.Node) -> bool:
    """Whether the weights of a convolution or Gemm are results of nodes: no target has integer kernels for that.

    A MatMul has two factors, and no weights: integer kernels multiply results of nodes too.
    """
    weights = node.inputs[1] if node.op_type in BIASED_PRODUCTS else None
    while weights is not None and (maker := weights.producer()) is not None:
        if not carries_type(maker) and maker.op_type not in MOVES:
            return True
        weights = maker.inputs[0]
    return False


def read_type(value: ir.Value) -> ir.DataType | None:
    """Returns the element type in which a node reads the value: the type before DequantizeLinear."""
    producer = value.producer()
    if producer is not None and producer.op_type == "DequantizeLinear" and producer.inputs[0] is not None:
        return producer.inputs[0].dtype
    return value.const_value.dtype if value.dtype is None and value.const_value is not None else value.dtype


def written_type(value: ir.Value) -> ir.DataType | None:
    """Returns the element type in which a node writes the value: after QuantizeLinear, if nothing else uses it."""
    users = [use.node for use in value.uses()]
    if users and not value.is_graph_output() and all(user.op_type == "QuantizeLinear" for user in users):
        return users[0].outputs[0].dtype
    return value.dtype


def precision_of(node: ir.Node) -> str:
    """Returns numpy's name of the element type that the node computes in; empty if unknown.

    Products compute in integers if both factors come from DequantizeLinear, regardless of their output, except with
    computed weights. Other operators compute in integers if all their inputs and outputs are integers.
    """
    if node.op_type in INTEGER_PRODUCTS | INTEGER_RECURRENT | {"MatMulNBits"} or node.op_type.startswith("QLinear"):
        return "int8"
    read = [value for value in node.inputs if value is not None]
    if node.op_type in PRODUCTS:
        integers = all(read_type(value) in _BYTES for value in read[:2]) and not computes_weights(node)
    else:
        values = [value for value in read if constant_of(value) is None]
        integers = bool(values) and all(read_type(value) in _BYTES for value in values)
        integers = integers and all(written_type(value) in _BYTES for value in node.outputs)
    if integers:
        return "int8"
    dtype = node.outputs[0].dtype if node.outputs else None
    return "" if dtype is None or dtype == ir.DataType.STRING else str(dtype.numpy())
