"""Moves max pooling before the activation function, which then has a quarter of the elements."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.quantize.plan import Plan

__all__ = ["pool_first"]


def pool_first(graph: ir.Model, plan: Plan) -> None:
    """Rewrites ``Conv -> LeakyRelu -> MaxPool`` to ``Conv -> MaxPool -> LeakyRelu`` if all three are quantized.

    A LeakyRelu with a positive slope is monotone, so the results are the same. On integers it is a table look-up for
    each element, and pooling is cheaper. In float it is fused with the convolution, and stays there.

    Args:
        graph: modified in place; the LeakyRelu's output keeps its name, and so its range.
        plan: updated for the new order.
    """
    quantized = set(plan.nodes)
    for leaky in list(graph.graph):
        if leaky.op_type != "LeakyRelu" or leaky.attributes.get_float("alpha", 0.01) < 0:
            continue
        if leaky.inputs[0] not in plan.integers or leaky not in quantized:
            continue  # in float, or fused with its convolution: pooling between the two would prevent that
        readers = [use.node for use in leaky.outputs[0].uses()]
        if len(readers) == 1 and readers[0] in quantized and _is_plain_pool(readers[0]):
            _swap(graph, leaky, readers[0], plan)
    position = {node: index for index, node in enumerate(graph.graph)}
    plan.nodes = dict.fromkeys(sorted(plan.nodes, key=position.__getitem__))
    values = [value for node in graph.graph for value in (*node.inputs, *node.outputs) if value is not None]
    first = {value: index for index, value in reversed(list(enumerate(values)))}
    plan.tensors = dict.fromkeys(sorted(plan.tensors, key=first.__getitem__))


def _is_plain_pool(node: ir.Node) -> bool:
    strides = node.attributes.get_ints("strides", []) or []
    return node.op_type == "MaxPool" and len(node.outputs) == 1 and max(strides, default=1) > 1


def _swap(graph: ir.Model, leaky: ir.Node, pool: ir.Node, plan: Plan) -> None:
    before, activated, pooled = leaky.inputs[0], leaky.outputs[0], pool.outputs[0]
    if before is None or activated.is_graph_output() or pooled.is_graph_output() or len(before.uses()) != 1:
        return
    ir.convenience.replace_all_uses_with(pooled, activated)
    pool.replace_input_with(0, before)
    leaky.replace_input_with(0, pooled)
    activated.shape = pooled.shape
    graph.graph.remove(leaky)
    graph.graph.insert_after(pool, leaky)
