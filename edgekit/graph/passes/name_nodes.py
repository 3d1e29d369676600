"""Gives every node and value a unique name."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass
from onnx_ir.passes.common.naming import SimpleNameGenerator

__all__ = ["NameNodes"]


class NameNodes(ir.passes.InPlacePass):
    """Names unnamed nodes after their first output, and makes the names of nodes and values unique.

    Preconditions: none.
    Postconditions: every node and value has a name that is unique in the model. Inputs and outputs of the graph keep
        theirs. Weights, order and connections are unchanged.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return ir.passes.PassResult(model, modified=NameFixPass(_AfterOutput())(model).modified)


class _AfterOutput(SimpleNameGenerator):
    def generate_node_name(self, node: ir.Node) -> str:
        return node.name or next((value.name for value in node.outputs if value.name), node.op_type.lower())
