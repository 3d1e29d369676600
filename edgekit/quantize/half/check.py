"""A graph that computes in float32 what a GPU computes in half precision."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgekit.graph.insert import inserted_cast
from edgekit.graph.passes import NameNodes

__all__ = ["rounding_graph"]

HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

Arrays = Mapping[str, np.ndarray]


def rounding_graph(graph: ir.Model) -> ir.Model:
    """Makes a graph that computes in float32 and rounds to half precision wherever ``graph`` stores half precision.

    ONNX Runtime runs FP16 on the CPU by casting to float32 and back, but removes the casts between two nodes, so that
    nothing is rounded or overflows there; it supports few operators in BF16. GPUs accumulate in float32 and store
    half precision, which is what this graph does.

    Args:
        graph: not modified; weights are shared with it.

    Returns:
        A copy with float32 inputs and outputs; ``graph`` itself if nothing in it is in half precision.
    """
    if not _needs_rounding(graph):
        return graph
    copy = graph.clone(deep_copy=False)
    main = copy.graph
    computing = [node for node in main if node.op_type != "Cast"]
    for value in (*main.inputs, *(output for node in computing for output in node.outputs)):
        if value.dtype in HALVES:
            _round(main, value)
    for node in computing:
        _read_wide(main, node)
    for index, value in enumerate(main.outputs):
        if value.dtype in HALVES:
            name, value.name = value.name, f"{value.name}_half"
            main.outputs[index] = _cast(main, value, ir.DataType.FLOAT)
            main.outputs[index].name = name
    NameNodes()(copy)
    return copy


def _needs_rounding(graph: ir.Model) -> bool:
    """Whether a value has half precision, or a node has no name yet, which noise is told by."""
    nodes = list(graph.graph)
    values = (*graph.graph.inputs, *(value for node in nodes for value in (*node.inputs, *node.outputs)))
    return any(value is not None and value.dtype in HALVES for value in values) or any(not node.name for node in nodes)


def _read_wide(main: ir.Graph, node: ir.Node) -> None:
    for index, value in enumerate(node.inputs):
        if value is not None and value.dtype in HALVES:
            node.replace_input_with(index, _cast(main, value, ir.DataType.FLOAT))


def _round(main: ir.Graph, value: ir.Value) -> None:
    """Makes ``value`` float32, and all its consumers read it rounded."""
    dtype = value.dtype
    assert dtype is not None
    uses = [(use.node, use.idx) for use in value.uses()]
    value.type = ir.TensorType(ir.DataType.FLOAT)  # the copy shares its types with the graph
    rounded = _cast(main, value, dtype)
    for node, index in uses:
        node.replace_input_with(index, rounded)
    for index, output in enumerate(main.outputs):
        if output is value and not value.is_graph_input():
            rounded.name, value.name = value.name, f"{value.name}_exact"
            main.outputs[index] = rounded


def _cast(main: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    return inserted_cast(main, value, dtype, f"{value.name}_as_{dtype.name.lower()}")
