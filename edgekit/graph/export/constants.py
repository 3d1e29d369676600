"""Tells what a module has learned from what it was written with: masks, tables of positions, factors."""

from __future__ import annotations

import onnx_ir as ir
from torch import nn

from edgekit.graph.stats import CONSTANT_INPUTS

__all__ = ["mark_constants"]


def mark_constants(graph: ir.Model, module: nn.Module) -> None:
    """Leaves a remark at every node that reads constants which come from none of the module's parameters.

    Once constants are folded, nobody can tell a mask from a bias; `stats_from_graph` reads the remark.

    Args:
        graph: as it was exported from ``module``, with the names of its parameters; changed in place.
        module: what was exported.
    """
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    learned: dict[ir.Value, bool] = {
        value: name in parameters for name, value in graph.graph.initializers.items() if not value.is_graph_input()
    }
    for node in graph.graph:
        read = [value for value in node.inputs if value is not None]
        # CastLike asks its second input for nothing but its element type.
        computed = read[:1] if node.op_type == "CastLike" else read
        if all(value in learned for value in computed):
            # Computed of constants alone, which is to be folded.
            learned |= dict.fromkeys(node.outputs, any(learned[value] for value in computed))
        unlearned = [
            str(i) for i, value in enumerate(node.inputs) if value is not None and not learned.get(value, True)
        ]
        if unlearned:
            node.metadata_props[CONSTANT_INPUTS] = ",".join(unlearned)
