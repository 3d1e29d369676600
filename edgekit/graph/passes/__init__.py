"""Passes that make a graph smaller and plainer without changing what it computes; `optimize` runs them all."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.errors import GraphError
from edgekit.graph.passes.fold_batch_norm import FoldBatchNorm
from edgekit.graph.passes.fold_constants import FoldConstants
from edgekit.graph.passes.fold_pad import FoldPad
from edgekit.graph.passes.fold_selections import FoldSelections
from edgekit.graph.passes.infer_shapes import InferShapes
from edgekit.graph.passes.name_nodes import NameNodes
from edgekit.graph.passes.remove_dead import RemoveDead
from edgekit.graph.passes.remove_identity import RemoveIdentity

__all__ = [
    "FoldBatchNorm",
    "FoldConstants",
    "FoldPad",
    "FoldSelections",
    "InferShapes",
    "NameNodes",
    "RemoveDead",
    "RemoveIdentity",
    "optimize",
]

_MOST_ROUNDS = 10


def optimize(graph: ir.Model) -> ir.Model:
    """Runs all passes, again and again until none changes anything.

    Names and order of the graph's inputs and outputs stay, and so do their element types and shapes; outputs are
    the same up to rounding (folding BatchNorm rounds weights once more).

    Args:
        graph: changed in place.

    Returns:
        The same graph.

    Raises:
        GraphError: a pass failed on this graph.
    """
    rounds = ir.passes.PassManager(
        [InferShapes(), FoldConstants(), FoldSelections(), RemoveIdentity(), FoldPad(), FoldBatchNorm(), RemoveDead()],
        steps=_MOST_ROUNDS,
        early_stop=True,
    )
    try:
        ir.passes.Sequential(NameNodes(), rounds, NameNodes(), InferShapes())(graph)
    except ir.passes.PassError as e:
        raise GraphError(f"graph '{graph.graph.name}' cannot be optimized: {e.__cause__ or e}") from e
    return graph
