"""Lets the body of a Loop read from outside what the Loop only passes on from one step to the next."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

__all__ = ["ReadInvariants"]


class ReadInvariants(ir.passes.InPlacePass):
    """Replaces the states of a ``Loop`` or ``Scan`` that never change by what they are at the start.

    Paddle's exporter makes a state of every tensor that a loop reads, weights included. The body then has no constant
    weights, and nothing of it can be folded or quantized.

    Postconditions: the graph computes the same; the states stay, and nothing reads them.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = [_read_from_outside(*state) for node in list(model.graph.all_nodes()) for state in _invariants(node)]
        return ir.passes.PassResult(model, modified=any(changed))


def _invariants(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value, ir.Value]]:
    """Yields the value before, in the body and after, of each state that every step passes on as it is."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("Loop", "Scan"):
        return
    body = node.attributes["body"].as_graph()
    if node.op_type == "Loop":
        # A body has the number of the step and the condition before its states, and the condition before its outputs.
        before, inside, outside = node.inputs[2:], body.inputs[2:], body.outputs[1:]
    else:
        count = len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0)
        before, inside, outside = node.inputs[:count], body.inputs, body.outputs
    for start, state, passed, after in zip(before, inside, outside, node.outputs, strict=False):
        if start is not None and _origin(passed) is state:
            yield start, state, after


def _origin(value: ir.Value) -> ir.Value | None:
    node = value.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _read_from_outside(start: ir.Value, state: ir.Value, after: ir.Value) -> bool:
    readers = [use for value in (state, after) for use in value.uses()]
    for node, index in readers:
        node.replace_input_with(index, start)
    return bool(readers)
