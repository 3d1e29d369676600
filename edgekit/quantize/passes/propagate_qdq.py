"""Propagates Q/DQ pairs through operators that move, concatenate or add, if consumers need integers anyway."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgekit.quantize.float_products import is_activation
from edgekit.quantize.plan import Plan
from edgekit.quantize.selections import copies
from edgekit.specs import QuantScheme

__all__ = ["propagate_qdq"]

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})


def propagate_qdq(graph: ir.Model, plan: Plan, scheme: QuantScheme) -> None:
    """Adds pairs before the scheme's ``propagated`` operators if there is a pair after them.

    Visits the graph from its end to its start. Both pairs around a pooling, for example, have one scale, so that the
    second loses nothing, and the pooling between DQ and Q runs on integers. The same holds for the inputs of a Concat
    (`share_concat_ranges` gives them one scale). At the sum of a convolution and a shortcut, the shortcut gets a pair.

    Args:
        graph: not modified.
        plan: made for the scheme's ``operators``; its ``nodes`` and ``tensors`` are updated, in graph order.
        scheme: the target's quantization scheme.
    """
    propagated = _Propagation(graph, plan, scheme)
    for node in reversed(graph.graph):
        if node.op_type in scheme.propagated and node.domain in ("", "ai.onnx"):
            propagated.take(node)
    plan.nodes = dict.fromkeys(node for node in graph.graph if node in propagated.quantized)
    values = (value for node in graph.graph for value in (*node.inputs, *node.outputs) if value is not None)
    plan.tensors = dict.fromkeys(value for value in values if value in propagated.paired)


class _Propagation:
    """The state of the traversal: tensors that have a pair, and nodes that read one."""

    def __init__(self, graph: ir.Model, plan: Plan, scheme: QuantScheme) -> None:
        self.paired = set(plan.tensors)
        # A fused activation function reads its product's result, not the pair that other consumers read.
        self.quantized = {node for node in plan.nodes if node.op_type in scheme.operators}
        self._fused = scheme.fused_activations
        self._position = {node: index for index, node in enumerate(graph.graph)}

    def take(self, node: ir.Node) -> None:
        """Adds pairs before ``node`` if it can run on integers."""
        output = node.outputs[0]
        if node.op_type == "Add":
            before = self._shortcut(node)
        elif node.op_type == "Concat":
            before = node.inputs if output in self.paired else ()
        elif self._only_moves(node):
            before = node.inputs[:1]
        else:
            return
        if before and all(is_activation(value) for value in before):
            self.paired.update(value for value in before if value is not None)
            self.quantized.add(node)

    def _only_moves(self, node: ir.Node) -> bool:
        """Whether ``node`` selects or moves elements that no consumer reads in float."""
        output = node.outputs[0]
        if output not in self.paired or output.is_graph_output():
            return False
        if not copies(node):
            return False
        if any(indices.uses() or indices.is_graph_output() for indices in node.outputs[1:]):
            return False
        return all(use.node in self.quantized for use in output.uses())

    def _shortcut(self, node: ir.Node) -> Sequence[ir.Value | None]:
        """Returns the input of an Add that is not in a convolution's accumulator."""
        first, second = node.inputs
        if first is None or second is None or first is second or first.shape != second.shape:
            return ()
        held = [value for value in (first, second) if self._is_accumulated(value)]
        if not held:
            return ()
        # A projection shortcut is a convolution too, and comes before the block's own one.
        latest = max(held, key=lambda value: self._position[value.producer()])  # type: ignore[index]
        return (second,) if latest is first else (first,)

    def _is_accumulated(self, value: ir.Value) -> bool:
        """Whether ``value`` stays in an accumulator: a product's result, through fused activation functions."""
        if value in self.paired or len(value.uses()) != 1 or value.is_graph_output():
            return False
        node = value.producer()
        while node is not None and node.op_type in self._fused and node.inputs[0] is not None:
            node = node.inputs[0].producer()
        return node in self.quantized and node is not None and node.op_type in CONVOLUTIONS
