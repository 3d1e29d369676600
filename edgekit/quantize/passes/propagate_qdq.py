"""Takes what moves, joins or adds numbers into integers, where whoever reads the result wants integers anyway."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgekit.quantize.plan import Plan, selects
from edgekit.specs import QuantScheme

__all__ = ["propagate_qdq"]

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})


def propagate_qdq(graph: ir.Model, plan: Plan, scheme: QuantScheme) -> None:
    """Puts pairs before the scheme's ``propagated`` operators too, where there is one behind.

    From the end of the graph to its beginning. Both pairs of a pooling, say, have one scale, so that the second loses
    nothing, and the pooling between DQ and Q runs on integers; so it is with each of what a Concat joins
    (`share_concat_ranges` gives them one scale). At the sum of a convolution and a shortcut, the shortcut gets a pair.

    Args:
        graph: is not changed.
        plan: made for the scheme's ``operators``; its ``nodes`` and ``tensors`` are changed, and kept in order.
        scheme: of the target.
    """
    propagated = _Propagation(graph, plan, scheme)
    for node in reversed(graph.graph):
        if node.op_type in scheme.propagated and node.domain in ("", "ai.onnx"):
            propagated.take(node)
    plan.nodes = [node for node in graph.graph if node in propagated.quantized]
    values = (value for node in graph.graph for value in (*node.inputs, *node.outputs) if value is not None)
    plan.tensors = [value for value in dict.fromkeys(values) if value in propagated.paired]


class _Propagation:
    """What has a pair, and what reads it, as far as the graph has been gone through."""

    def __init__(self, graph: ir.Model, plan: Plan, scheme: QuantScheme) -> None:
        self.paired = set(plan.tensors)
        # An activation function reads what its product computes, not the pair that stands there for others.
        self.quantized = {node for node in plan.nodes if node.op_type in scheme.operators}
        self._fused = scheme.fused_activations
        self._position = {node: index for index, node in enumerate(graph.graph)}

    def take(self, node: ir.Node) -> None:
        """Puts pairs before ``node`` if that is where they belong."""
        output = node.outputs[0]
        if node.op_type == "Add":
            before = self._shortcut(node)
        elif node.op_type == "Concat":
            before = node.inputs if output in self.paired else ()
        elif self._only_moves(node):
            before = node.inputs[:1]
        else:
            return
        if before and all(_is_activation(value) for value in before):
            self.paired.update(value for value in before if value is not None)
            self.quantized.add(node)

    def _only_moves(self, node: ir.Node) -> bool:
        """Whether ``node`` picks or moves numbers that nobody wants in float afterwards."""
        output = node.outputs[0]
        if output not in self.paired or output.is_graph_output():
            return False
        mode = node.attributes.get_string("mode", "nearest")
        if not selects(node) or (node.op_type == "Resize" and mode != "nearest"):
            return False
        if any(indices.uses() or indices.is_graph_output() for indices in node.outputs[1:]):
            return False
        return all(use.node in self.quantized for use in output.uses())

    def _shortcut(self, node: ir.Node) -> Sequence[ir.Value | None]:
        """The summand that is not in a convolution's accumulator when it is added."""
        first, second = node.inputs
        if first is None or second is None or first is second or first.shape != second.shape:
            return ()
        held = [value for value in (first, second) if self._is_accumulated(value)]
        if not held:
            return ()
        # What is projected onto more channels beside a block is a convolution's too, and comes first.
        latest = max(held, key=lambda value: self._position[value.producer()])  # type: ignore[index]
        return (second,) if latest is first else (first,)

    def _is_accumulated(self, value: ir.Value) -> bool:
        """Whether ``value`` is there in integers' sums only: a product's, through activation functions."""
        if value in self.paired or len(value.uses()) != 1 or value.is_graph_output():
            return False
        node = value.producer()
        while node is not None and node.op_type in self._fused and node.inputs[0] is not None:
            node = node.inputs[0].producer()
        return node in self.quantized and node is not None and node.op_type in CONVOLUTIONS


def _is_activation(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is None and value.dtype == ir.DataType.FLOAT
