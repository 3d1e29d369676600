"""Infers element types and shapes of all values with ONNX's shape inference."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from edgekit.errors import GraphError
from edgekit.graph.external_weights import external_weights

__all__ = ["InferShapes"]


class InferShapes(ir.passes.InPlacePass):
    """Runs ONNX's shape inference without the large weights, so that graphs over 2 GB work too.

    onnx_ir's own pass is not used because it changes sequences to tensors.

    Preconditions: nodes are in topological order.
    Postconditions: values have the types and shapes that ONNX can infer; outputs of operators unknown to ONNX keep
        theirs. Nodes, names and weights are unchanged.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        with external_weights(model):
            content = ir.to_proto(model).SerializeToString()
        try:
            inferred = onnx.shape_inference.infer_shapes(content, check_type=False, strict_mode=False, data_prop=True)
        except Exception as e:
            raise GraphError(f"the shapes of graph '{model.graph.name}' contradict each other: {e}") from e
        found = {value.name: value for value in _values(ir.from_proto(inferred))}
        modified = [_update(value, found.get(value.name)) for value in _values(model)]
        return ir.passes.PassResult(model, modified=any(modified))


def _values(model: ir.Model) -> Iterator[ir.Value]:
    """Yields the node outputs of the graph and its subgraphs."""
    for node in model.graph.all_nodes():
        yield from node.outputs


def _update(value: ir.Value, found: ir.Value | None) -> bool:
    if found is None:
        return False
    modified = False
    if found.type is not None and found.type != value.type:
        value.type, modified = found.type, True
    if found.shape is not None and found.shape != value.shape:
        value.shape, modified = found.shape, True
    return modified
