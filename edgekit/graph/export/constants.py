"""Distinguishes a module's parameters from other constants: masks, position tables, factors."""

from __future__ import annotations

import onnx_ir as ir
from torch import nn

from edgekit.graph.stats import CONSTANT_INPUTS

__all__ = ["mark_constants"]


def mark_constants(graph: ir.Model, module: nn.Module) -> None:
    """Marks the inputs of every node that are constants and not parameters, in the node's metadata.

    After constant folding, a mask cannot be distinguished from a bias; `stats_from_graph` reads the metadata.

    Args:
        graph: the graph exported from ``module``, with the names of its parameters; changed in place.
        module: the exported module.
    """
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    is_parameter: dict[ir.Value, bool] = {
        value: name in parameters for name, value in graph.graph.initializers.items() if not value.is_graph_input()
    }
    for node in graph.graph:
        read = [value for value in node.inputs if value is not None]
        # CastLike reads only the element type of its second input.
        computed = read[:1] if node.op_type == "CastLike" else read
        if all(value in is_parameter for value in computed):
            # Computed from constants alone: it will be folded.
            is_parameter |= dict.fromkeys(node.outputs, any(is_parameter[value] for value in computed))
        constants = [
            str(i) for i, value in enumerate(node.inputs) if value is not None and not is_parameter.get(value, True)
        ]
        if constants:
            node.metadata_props[CONSTANT_INPUTS] = ",".join(constants)
