"""Gives the values that the body of a Scan reads from outside to it as states, for a backend that takes no others."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, constant, new_node

__all__ = ["PassOuterValues"]


class PassOuterValues(RewritePass):
    """Makes a state of each computed value that the body of a ``Scan`` reads from a graph around it.

    The body returns these states as they are. OpenVINO 2026.4 does not read a Scan whose body reads other values than
    its inputs and constants.

    Postconditions: the body of a Scan reads its inputs, what it computes, and constants. Names and results stay.
    """

    operator = "Scan"
    everywhere = True

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        body = node.attributes["body"].as_graph()
        outer = _outer_values(body)
        if not outer:
            raise NotApplicable("its body reads its inputs and constants")
        if len(node.outputs) != len(body.outputs):
            raise NotApplicable("it does not have all outputs of its body")
        states = len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0)
        results = [ir.Value() for _ in (*outer, *node.outputs)]
        scan = ir.node(
            "Scan",
            [*node.inputs[:states], *outer, *node.inputs[states:]],
            attributes=dict(node.attributes),
            name=node.name,
            outputs=results,
        )
        for index, value in enumerate(outer):
            name = f"{node.outputs[0].name}.outer_{index}"
            results[states + index].name = name
            _add_state(body, states + index, value, name)
        kept = [*results[:states], *results[states + len(outer) :]]
        ir.convenience.replace_nodes_and_values(graph, node, [node], [scan], node.outputs, kept)


def _outer_values(body: ir.Graph) -> list[ir.Value]:
    """Returns what a body reads of the graphs around it, without constants, each once."""
    nodes = list(body.all_nodes())
    graphs = {body, *(node.graph for node in nodes if isinstance(node.graph, ir.Graph))}
    own = {value for each in graphs for value in (*each.inputs, *each.initializers.values())}
    own.update(value for node in nodes for value in node.outputs)
    read = [value for node in nodes for value in node.inputs if value is not None]
    read += [value for each in graphs for value in each.outputs]
    return [value for value in dict.fromkeys(read) if value not in own and constant(value) is None]


def _add_state(body: ir.Graph, place: int, value: ir.Value, name: str) -> None:
    """Adds an input that stands for a value, and an output that returns it."""
    state = ir.val(f"{name}.state", type=value.type, shape=value.shape)
    nodes = set(body.all_nodes())
    for user, index in [(use.node, use.idx) for use in value.uses()]:
        if user in nodes:
            user.replace_input_with(index, state)
    for index, output in enumerate(body.outputs):
        if output is value:
            body.outputs[index] = state
    body.inputs.insert(place, state)
    copy = new_node("Identity", [state], name=f"{name}.next", output=f"{name}.next")
    copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
    body.append(copy)
    body.outputs.insert(place, copy.outputs[0])
