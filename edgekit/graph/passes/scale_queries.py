"""Scales the queries of an attention instead of its scores."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph.attention import Attention, find_attention

__all__ = ["ScaleQueries"]


class ScaleQueries(ir.passes.InPlacePass):
    """Rewrites ``s * (q @ k.T)`` as ``(s * q) @ k.T``.

    The queries have fewer elements than the scores, and their products do not overflow half precision. TensorRT fuses
    an attention of single operators only if the query, the key or both are scaled before the product (NVIDIA, "Fused
    Attention").

    Preconditions: values have their types and shapes.
    Postconditions: no Mul or Div by a constant follows the first product of an attention that `find_attention` finds,
        unless the query comes from a Q/DQ pair. Results are the same up to rounding.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        scaled = [
            attention
            for attention in find_attention(model)
            if attention.score_scales and not _is_dequantized(attention.scores.inputs[0])
        ]
        for attention in scaled:
            _move(model.graph, attention)
        return ir.passes.PassResult(model, modified=bool(scaled))


def _is_dequantized(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    return node is not None and node.op_type == "DequantizeLinear"


def _move(graph: ir.Graph, attention: Attention) -> None:
    query = attention.scores.inputs[0]
    assert query is not None and query.dtype is not None
    name = f"{attention.scores.name or attention.scores.outputs[0].name}.query"
    factor = np.asarray(attention.score_scale, query.dtype.numpy())
    constant = ir.Value(
        name=f"{name}.scale",
        type=query.type,
        shape=ir.Shape([]),
        const_value=ir.tensor(factor, dtype=query.dtype, name=f"{name}.scale"),
    )
    graph.register_initializer(constant)
    scale = ir.node("Mul", [query, constant], name=f"{name}.scaled")
    scale.outputs[0].name, scale.outputs[0].type, scale.outputs[0].shape = f"{name}.scaled", query.type, query.shape
    graph.insert_before(attention.scores, scale)
    attention.scores.replace_input_with(0, scale.outputs[0])
    for node in attention.score_scales:
        before = next(value for value in node.inputs if value is not None and value.producer() in attention.path)
        ir.convenience.replace_all_uses_with(node.outputs[0], before)
        graph.remove(node, safe=True)
