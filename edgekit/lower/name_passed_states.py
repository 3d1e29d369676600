"""Puts an Identity between the inputs and outputs of a loop's body, for a backend that takes the two for one."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, new_node

__all__ = ["NamePassedStates"]


class NamePassedStates(RewritePass):
    """Makes each output of a body that is one of its inputs, or an output twice, the result of an ``Identity``.

    Exporters pass weights on so, from step to step: those of Keras' LSTM are states of a Loop. OpenVINO 2026.4 counts
    such an input twice, and does not read the Loop: "canonical inputs size does not match".

    Postconditions: no output of the body of a Loop is an input of it, and no two are the same tensor.
    """

    operator = "Loop"
    everywhere = True

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        body = node.attributes["body"].as_graph()
        taken = set(body.inputs)
        passed = []
        for index, output in enumerate(body.outputs):
            if output in taken:
                passed.append(index)
            taken.add(output)
        if not passed:
            raise NotApplicable("its body computes each of its outputs")
        for index in passed:
            state, name = body.outputs[index], f"{body.outputs[index].name}.passed_{index}"
            copy = new_node("Identity", [state], name=name, output=name)
            copy.outputs[0].type, copy.outputs[0].shape = state.type, state.shape
            body.append(copy)
            body.outputs[index] = copy.outputs[0]
