"""Gives recurrent layers the time as their first axis: runtimes do not take ``layout=1``."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgekit.graph.operators import RECURRENT

__all__ = ["TimeFirst"]

_STATES = (5, 6)
"""The initial states among the inputs of an LSTM; an RNN and a GRU have the first."""
_SWAP = (1, 0, 2)
_SEQUENCE = (2, 0, 1, 3)
"""From (time, direction, batch, hidden) to (batch, time, direction, hidden)."""


class TimeFirst(ir.passes.InPlacePass):
    """Puts Transposes around an ``RNN``, ``GRU`` or ``LSTM`` with ``layout=1``, whose first axis is the batch.

    ONNX Runtime 1.32 refuses it.

    Postconditions: no such layer has ``layout=1``; names of outputs stay. Shapes of new values are unknown.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [
            node
            for node in model.graph.all_nodes()
            if node.op_type in RECURRENT and node.domain == "" and node.attributes.get_int("layout", 0) == 1
        ]
        for node in nodes:
            _turn(node)
        return ir.passes.PassResult(model, modified=bool(nodes))


def _turn(node: ir.Node) -> None:
    graph = node.graph
    assert graph is not None
    del node.attributes["layout"]
    for index, value in enumerate(node.inputs):
        if value is not None and (index == 0 or index in _STATES):
            before = _transpose(value, _SWAP, f"{node.outputs[0].name or node.name}.{index}.time_first")
            graph.insert_before(node, before)
            node.replace_input_with(index, before.outputs[0])
    for index, value in enumerate(node.outputs):
        if not value.name:
            continue
        name = value.name
        after = _transpose(value, _SEQUENCE if index == 0 else _SWAP, f"{name}.batch_first")
        graph.insert_after(node, after)
        result = after.outputs[0]
        result.type, result.shape = value.type, value.shape
        value.replace_all_uses_with(result, replace_graph_outputs=True)
        after.replace_input_with(0, value)
        value.name, value.shape, result.name = f"{name}.time_first", None, name


def _transpose(value: ir.Value, order: Sequence[int], name: str) -> ir.Node:
    return ir.node("Transpose", [value], {"perm": order}, name=name, outputs=[ir.Value(name=f"{name}.out")])
