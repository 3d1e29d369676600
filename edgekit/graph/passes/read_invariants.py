"""Lets the body of a Loop read from outside what the Loop only passes on from one step to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

__all__ = ["ReadInvariants"]


class ReadInvariants(ir.passes.InPlacePass):
    """Replaces the states of a ``Loop`` or ``Scan`` that never change by what they are at the start.

    Paddle's exporter and tf2onnx make a state of every tensor that a loop reads, weights included. The body then has no
    constant weights, and nothing of it can be folded or quantized. OpenVINO refuses a Loop with such states.

    Postconditions: the graph computes the same; such states stay only where they are outputs of the graph, or where
    the body has nothing else to return.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = [_read_from_outside(node) for node in list(model.graph.all_nodes())]
        return ir.passes.PassResult(model, modified=any(changed))


@dataclass(frozen=True, kw_only=True)
class _State:
    """A state that every step passes on as it is.

    Attributes:
        index: its place among the states.
        start: its value before the first step.
        inside: its value in the body.
        after: its value after the last step.
    """

    index: int
    start: ir.Value
    inside: ir.Value
    after: ir.Value


def _read_from_outside(node: ir.Node) -> bool:
    states = _invariants(node)
    changed = [_read_start(state) for state in states]
    return _remove_states(node, states) or any(changed)


def _invariants(node: ir.Node) -> list[_State]:
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("Loop", "Scan"):
        return []
    body = node.attributes["body"].as_graph()
    first = _first_state(node)
    count = len(node.inputs) - first - node.attributes.get_int("num_scan_inputs", 0)
    states = zip(
        node.inputs[first : first + count], body.inputs[first:], body.outputs[first // 2 :], node.outputs, strict=False
    )
    return [
        _State(index=index, start=start, inside=inside, after=after)
        for index, (start, inside, passed, after) in enumerate(states)
        if start is not None and _origin(passed) is inside
    ]


def _first_state(node: ir.Node) -> int:
    """Returns the number of inputs before the states: those of a Loop are the number of the step and the condition.

    Of these two, the outputs of the body have the condition.
    """
    return 2 if node.op_type == "Loop" else 0


def _origin(value: ir.Value) -> ir.Value | None:
    node = value.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _read_start(state: _State) -> bool:
    readers = [use for value in (state.inside, state.after) for use in value.uses()]
    for node, index in readers:
        node.replace_input_with(index, state.start)
    return bool(readers)


def _remove_states(node: ir.Node, states: Sequence[_State]) -> bool:
    """Removes the states that nothing reads any more; returns whether there were some."""
    if not states:
        return False
    body, first = node.attributes["body"].as_graph(), _first_state(node)
    before = first // 2
    # An output of the body may also be what it collects of each step.
    removed = {
        state.index
        for state in states
        if not state.after.is_graph_output()
        and all(
            output is not state.inside for index, output in enumerate(body.outputs) if index != before + state.index
        )
    }
    if not removed or len(removed) == len(node.outputs):
        return False
    for index in sorted(removed, reverse=True):
        del body.inputs[first + index], body.outputs[before + index]
    _replace(node, [value for index, value in enumerate(node.inputs) if index - first not in removed], removed)
    return True


def _replace(node: ir.Node, inputs: Sequence[ir.Value | None], removed: set[int]) -> None:
    """Replaces a node by one with these inputs, and without the outputs at these places."""
    graph = node.graph
    assert graph is not None
    kept = [output for index, output in enumerate(node.outputs) if index not in removed]
    outputs = [ir.Value(name=output.name, type=output.type, shape=output.shape) for output in kept]
    new = ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), outputs=outputs, name=node.name)
    graph.insert_before(node, new)
    for old, output in zip(kept, outputs, strict=True):
        old.replace_all_uses_with(output, replace_graph_outputs=True)
    graph.remove(node, safe=True)
