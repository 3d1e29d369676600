"""Replaces the arithmetic of a Sigmoid and of a SiLU by Sigmoid and Mul."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.graph.arithmetic import is_close, number_in, replaced, scaled_by, sole_reader, with_number

__all__ = ["RecognizeSigmoid"]


class RecognizeSigmoid(ir.passes.InPlacePass):
    """Replaces ``1 / (1 + exp(-x))`` by ``Sigmoid`` and ``y / (1 + exp(-x))`` by ``y * sigmoid(x)``.

    With ``y = x`` the latter is a SiLU, in the form in which the rest of EdgeKit and the backends know it. Measured
    alone on ONNX Runtime, it takes a third of the time, on OpenVINO 0.9.

    Preconditions: Constant nodes have been converted (`FoldConstants`); values have their ranks.
    Postconditions: no such expression is left whose parts nothing else reads. The last node keeps its name and output.
        Nodes that nothing reads any more are left to `RemoveDead`.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        exponentials = [node for node in model.graph.all_nodes() if node.op_type == "Exp" and node.domain == ""]
        return ir.passes.PassResult(model, modified=any([_replace(node) for node in exponentials]))


def _replace(exponential: ir.Node) -> bool:
    source = exponential.inputs[0]
    x = next((x for x, factor in scaled_by(source) if factor == -1), None) if source is not None else None
    sum_ = sole_reader(exponential.outputs[0])
    if x is None or sum_ is None or with_number(sum_, exponential.outputs[0]) != (1.0, 1.0):
        return False
    value = sum_.outputs[0]
    last = sole_reader(value)
    if last is None:
        return False
    if last.op_type == "Reciprocal":
        return replaced(last, "Sigmoid", [x]) is not None
    if last.op_type != "Div" or last.inputs[1] is not value or last.inputs[0] is value:
        return False
    number = number_in(last.inputs[0])
    if number is not None:
        return is_close(number, 1.0) and replaced(last, "Sigmoid", [x]) is not None
    sigmoid = replaced(sum_, "Sigmoid", [x])
    if sigmoid is None:
        return False
    product = ir.node("Mul", [last.inputs[0], sigmoid.outputs[0]], name=last.name)
    product.outputs[0].type, product.outputs[0].shape = last.outputs[0].type, last.outputs[0].shape
    assert last.graph is not None
    ir.convenience.replace_nodes_and_values(
        last.graph, last, [last], [product], [last.outputs[0]], [product.outputs[0]]
    )
    return True
