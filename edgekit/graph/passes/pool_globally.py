"""Replaces means over all pixels by global average poolings."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.graph.layer_weights import constant_array

__all__ = ["PoolGlobally"]

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})
_MIN_RANK = 4
"""Along the last axis of three, a mean is part of a normalization of tokens."""


class PoolGlobally(ir.passes.InPlacePass):
    """Replaces a ReduceMean of floats over all axes but the first two by ``GlobalAveragePool``.

    The pooling has integer kernels, and those of floats read the blocked layout of the convolution before it. Measured
    on EfficientNet-B0 in INT8 on ONNX Runtime, with 17 of them: 0.88 of the time.

    Preconditions: shapes have been inferred (`InferShapes`); Constant nodes have been converted (`FoldConstants`).
    Postconditions: no ReduceMean of a tensor of four or five axes reduces all but the first two. The pooling has its
        name; if the axes are not kept, a Flatten behind it removes them, and `RemoveIdentity` what restores them.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        means = [node for node in model.graph.all_nodes() if node.op_type == "ReduceMean" and node.domain == ""]
        pooled = [node for node in means if _is_over_pixels(node)]
        for node in pooled:
            _replace(node)
        return ir.passes.PassResult(model, modified=bool(pooled))


def _is_over_pixels(node: ir.Node) -> bool:
    source = node.inputs[0]
    shape = source.shape if source is not None else None
    if source is None or shape is None or len(shape) < _MIN_RANK or source.dtype not in _FLOATS:
        return False
    axes = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    given = axes.tolist() if axes is not None else node.attributes.get_ints("axes", ())
    return {axis % len(shape) for axis in given} == set(range(2, len(shape)))


def _replace(node: ir.Node) -> None:
    graph, source, result = node.graph, node.inputs[0], node.outputs[0]
    assert graph is not None and source is not None and source.shape is not None
    pool = ir.node("GlobalAveragePool", [source], name=node.name)
    pooled = pool.outputs[0]
    pooled.type, pooled.shape = source.type, ir.Shape([*source.shape[:2], *[1] * (len(source.shape) - 2)])
    nodes = [pool]
    if node.attributes.get_int("keepdims", 1) == 0:
        pooled.name = f"{result.name}.pooled"
        nodes.append(ir.node("Flatten", [pooled], name=f"{node.name}.flatten"))
        nodes[-1].outputs[0].type, nodes[-1].outputs[0].shape = source.type, ir.Shape(source.shape[:2])
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [result], [nodes[-1].outputs[0]])
