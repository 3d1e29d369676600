"""Drops what no output depends on."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedFunctionsPass, RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

__all__ = ["RemoveDead"]


class RemoveDead(ir.passes.InPlacePass):
    """Removes nodes, initializers, functions and operator-set imports that nothing uses.

    Preconditions: none.
    Postconditions: every node leads to an output of its graph; inputs and outputs are untouched, even an input
        that nothing reads.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        removals: list[type[ir.passes.InPlacePass]] = [
            RemoveUnusedNodesPass,
            RemoveUnusedFunctionsPass,
            RemoveUnusedOpsetsPass,
        ]
        modified = [removal()(model).modified for removal in removals]
        return ir.passes.PassResult(model, modified=any(modified))
