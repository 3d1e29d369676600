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
        # Only the types are read: to make the whole model an `ir.Model` again would take most of the time.
        found = dict(_types(inferred.graph))
        modified = [_update(value, found.get(value.name or "")) for value in _values(model)]
        return ir.passes.PassResult(model, modified=any(modified))


def _values(model: ir.Model) -> Iterator[ir.Value]:
    """Yields the node outputs of the graph and its subgraphs."""
    for node in model.graph.all_nodes():
        yield from node.outputs


def _types(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TypeProto]]:
    """Yields names and types of the values of a graph and its subgraphs."""
    for value in (*graph.value_info, *graph.output):
        yield value.name, value.type
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _types(inner)


def _update(value: ir.Value, found: onnx.TypeProto | None) -> bool:
    """Sets the type and the shape of a value, if they were inferred; returns whether they are other than before."""
    if found is None:
        return False
    modified = False
    type_ = ir.serde.deserialize_type_proto_for_type(found)
    if type_ is not None and type_ != value.type:
        value.type, modified = type_, True
    shape = ir.serde.deserialize_type_proto_for_shape(found)
    if shape is not None and shape != value.shape:
        value.shape, modified = shape, True
    return modified
