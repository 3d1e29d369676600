"""Takes a few channels out of matrix products: a second product multiplies them, and adds them to the result."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgekit.graph.insert import insert_behind, new_initializer, pass_on
from edgekit.graph.stats import CONSTANT_INPUTS, MADE_OF
from edgekit.quantize.plan import STAYS_IN_FLOAT

__all__ = ["split_channels"]

REASON = "it multiplies the outlier channels of a product"


def split_channels(graph: ir.Model, value: ir.Value, products: Sequence[ir.Node], channels: np.ndarray) -> None:
    """Multiplies channels by products of their own, which stay in float, in place.

    The weights of these channels become zero in the first products, whatever they then read of them. The sum comes
    behind the bias, if it is an Add, since targets compute that with the product.

    Args:
        graph: the float graph; its results stay the same.
        value: the tensor that the products read; channels are its last axis.
        products: MatMul and Gemm nodes that multiply ``value`` by a constant matrix.
        channels: indices of the channels.
    """
    indices = new_initializer(graph, f"{value.name}_outliers", channels.astype(np.int64))
    attributes, inner = {"axis": -1}, {CONSTANT_INPUTS: "1"}
    gather = ir.node(
        "Gather", [value, indices], attributes=attributes, name=f"{value.name}_gather", metadata_props=inner
    )
    gathered = _named(gather, f"{value.name}_gathered", value)
    gathered.shape = None if value.shape is None else ir.Shape([*value.shape[:-1], len(channels)])
    insert_behind(graph.graph, value, [gather])
    for node in products:
        _split(graph, node, gathered, channels)


def _split(graph: ir.Model, node: ir.Node, gathered: ir.Value, channels: np.ndarray) -> None:
    weight = node.inputs[1]
    assert weight is not None and weight.const_value is not None
    transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
    array = weight.const_value.numpy()
    matrix = array.T if transposed else array
    own = np.ascontiguousarray(matrix[channels])
    if node.op_type == "Gemm":
        own = own * np.float32(node.attributes.get_float("alpha", 1.0))
    rest = matrix.copy()
    rest[channels] = 0
    others = new_initializer(graph, f"{node.name}_rest", np.ascontiguousarray(rest.T if transposed else rest))
    others.metadata_props[MADE_OF] = weight.metadata_props.get(MADE_OF) or weight.name or ""
    node.replace_input_with(1, others)
    last = _with_bias(node)
    result = last.outputs[0]
    small = ir.node(
        "MatMul",
        [gathered, new_initializer(graph, f"{node.name}_outlier_weights", own)],
        name=f"{node.name}_outliers",
        metadata_props={CONSTANT_INPUTS: "1", STAYS_IN_FLOAT: REASON},
    )
    added = ir.node("Add", [result, _named(small, f"{node.name}_outliers_multiplied", result)], name=f"{node.name}_sum")
    _named(added, f"{node.name}_summed", result)
    pass_on(graph.graph, result, [small, added], renamed=f"{result.name}_without_outliers")


def _with_bias(node: ir.Node) -> ir.Node:
    """Returns the Add of a constant behind a product, or the product."""
    result = node.outputs[0]
    readers = [use.node for use in result.uses()]
    if result.is_graph_output() or len(readers) != 1 or readers[0].op_type != "Add":
        return node
    constant = any(value is not None and value.const_value is not None for value in readers[0].inputs)
    return readers[0] if constant else node


def _named(node: ir.Node, name: str, like: ir.Value) -> ir.Value:
    """Returns the output of a new node, with the type and shape of another value."""
    value = node.outputs[0]
    value.name, value.type, value.shape = name, ir.TensorType(ir.DataType.FLOAT), like.shape
    return value
