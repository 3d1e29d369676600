"""Removes nodes and initializers that no output depends on."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedFunctionsPass, RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

__all__ = ["RemoveDead"]


class RemoveDead(ir.passes.InPlacePass):
    """Removes unused nodes, initializers, functions and opset imports.

    Preconditions: none.
    Postconditions: every node contributes to an output of its graph; inputs and outputs are unchanged, including
        unused inputs.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        removals: list[type[ir.passes.InPlacePass]] = [
            RemoveUnusedNodesPass,
            RemoveUnusedFunctionsPass,
            RemoveUnusedOpsetsPass,
        ]
        modified = [removal()(model).modified for removal in removals]
        return ir.passes.PassResult(model, modified=any(modified))
