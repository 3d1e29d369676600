"""Makes maxima, minima and limits return NaN where an operand is NaN, for a backend that returns the other operand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph.element_types import FLOATS
from edgekit.graph.operators import PRODUCTS
from edgekit.lower.rewriting import NotApplicable, RewritePass, constant, new_node, replace_node

__all__ = ["PropagateNan"]

_BEFORE_ACTIVATIONS = PRODUCTS | {"Add", "BatchNormalization", "DequantizeLinear", "InstanceNormalization"}
"""Behind these, a Clip is the activation function of a layer, which the backend fuses into it."""
_MAY_MAKE_NAN = frozenset({"Acos", "Asin", "Div", "Log", "Pow", "Reciprocal", "Sqrt", "Sub", "Where"})
"""Behind these, or of an input of the graph, a Relu is no activation function of a layer."""


class PropagateNan(RewritePass):
    """Chooses NaN by ``Where(IsNaN(x), x, …)`` around ``Max``, ``Min``, ``Clip`` and ``Relu`` of floats.

    ONNX Runtime returns NaN where an operand is NaN. OpenVINO 2026.4 returns the second operand of a maximum, so that
    ``Max(x, 0)`` hides NaN and ``Max(0, x)`` does not: constants are placed first, which costs nothing. A Clip or Relu
    that is the activation function of a layer stays as it is: the network is lost if it sees NaN, and a choice between
    the two would take time in every run.

    Args:
        operator: ``Max``, ``Min``, ``Clip`` or ``Relu``.

    Preconditions: values have their types.
    Postconditions: names stay; results are the same where no operand is NaN.
    """

    everywhere = True

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = operator

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        if node.outputs[0].dtype not in FLOATS:
            raise NotApplicable("integers have no NaN")
        if self.operator in ("Clip", "Relu"):
            if _is_activation(node):
                raise NotApplicable("it is the activation function of a layer")
            _guard(node, [node.inputs[0]])
            return
        numbers = [value for value in node.inputs if _is_number(value)]
        others = [value for value in node.inputs if not _is_number(value)]
        if len(others) < 2 and len(numbers) < 2:
            if not numbers or node.inputs[0] is numbers[0]:
                raise NotApplicable("its only operand that may be NaN is the last")
            for index, value in enumerate((*numbers, *others)):
                node.replace_input_with(index, value)
            return
        _guard(node, others)


def _is_number(value: ir.Value | None) -> bool:
    """Whether a value is constant and not NaN."""
    tensor = constant(value)
    return tensor is not None and not np.isnan(tensor.numpy()).any()


def _is_activation(node: ir.Node) -> bool:
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    quantized = any(use.node.op_type == "QuantizeLinear" for use in node.outputs[0].uses())
    if node.op_type == "Relu":
        return quantized or (before is not None and before.op_type not in _MAY_MAKE_NAN)
    return quantized or (before is not None and before.op_type in _BEFORE_ACTIVATIONS)


def _guard(node: ir.Node, operands: list[ir.Value | None]) -> None:
    name = node.outputs[0].name
    inner = new_node(node.op_type, node.inputs, name=f"{node.name}.of_numbers", output=f"{name}.of_numbers")
    nodes, result = [inner], inner.outputs[0]
    for index, operand in enumerate(operands):
        check = new_node("IsNaN", [operand], name=f"{node.name}.nan{index}", output=f"{name}.nan{index}")
        last = index == len(operands) - 1
        choice = new_node(
            "Where",
            [check.outputs[0], operand, result],
            name=node.name if last else f"{node.name}.or_nan{index}",
            output=None if last else f"{name}.or_nan{index}",
        )
        nodes += [check, choice]
        result = choice.outputs[0]
    replace_node(node, nodes)
