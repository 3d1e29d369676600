"""Gives the conditions of If and Loop no dimensions, for a backend that takes none with two or more."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, initializer, new_node

__all__ = ["ScalarConditions"]

_TAKEN = 1


class ScalarConditions(RewritePass):
    """Reshapes a condition with two or more dimensions, and so one element, to one without dimensions.

    PyTorch exports ``if p >= 0.5`` for a result ``p`` of shape ``(1, 1)`` so. ONNX and ONNX Runtime take one element in
    any number of dimensions; OpenVINO 2026.4 takes at most one dimension.

    Args:
        operator: ``If``, or ``Loop``, whose body computes the condition of the next step.

    Preconditions: values have their shapes.
    Postconditions: no condition has two or more dimensions, or an unknown number of them.
    """

    everywhere = True

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = operator

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        index = 0 if self.operator == "If" else 1
        given = node.inputs[index]
        body = node.attributes["body"].as_graph() if self.operator == "Loop" else None
        computed = body.outputs[0] if body is not None else None
        if not _has_dimensions(given) and not _has_dimensions(computed):
            raise NotApplicable("its condition has at most one dimension")
        if given is not None and _has_dimensions(given):
            made = _scalar(given, graph)
            graph.insert_before(node, made)
            node.replace_input_with(index, made.outputs[0])
        if body is not None and computed is not None and _has_dimensions(computed):
            made = _scalar(computed, body)
            body.append(made)
            body.outputs[0] = made.outputs[0]


def _has_dimensions(value: ir.Value | None) -> bool:
    return value is not None and (value.shape is None or len(value.shape) > _TAKEN)


def _scalar(value: ir.Value, graph: ir.Graph) -> ir.Node:
    name = f"{value.name}.scalar"
    shape = initializer(graph, f"{name}.shape", np.zeros(0, np.int64))
    made = new_node("Reshape", [value, shape], name=name, output=name)
    made.outputs[0].type, made.outputs[0].shape = value.type, ir.Shape([])
    return made
