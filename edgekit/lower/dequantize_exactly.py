"""Dequantizes without rounding before operators with steps or poles, for a backend whose zeros are not 0."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, constant, initializer, new_node, stored_constant
from edgekit.lower.stop_dequantizers import in_floats

__all__ = ["STEPPED", "DequantizeExactly"]

_COMPARISONS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
STEPPED = tuple(
    sorted(
        _COMPARISONS
        | set("Acos Acosh Asin Atanh Cast Ceil Clip Div Floor Log Mod Pow Reciprocal Round Sign Sqrt".split())
    )
)
"""Operators whose result may differ much for a number that differs by its rounding."""

_EXACT = frozenset("Abs Clip Flatten Gather Identity Neg Relu Reshape Slice Squeeze Transpose Unsqueeze".split())
"""Operators that round as ONNX Runtime does: their results are equal where their inputs are."""
_SMALL = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16})


class DequantizeExactly(RewritePass):
    """Computes ``(q - zero) * scale`` operator by operator for an operator with steps or poles.

    OpenVINO 2026.4 makes one operator of Q and DQ, and computes ``q * scale - zero * scale``, rounded twice: the zero
    point becomes a number such as 5e-8 or -5e-8. Then a quotient by it is no infinity, its square root is NaN, and
    its sign is not 0. It also moves a DequantizeLinear behind a Clip, whose limits become integers. A Max with the
    lowest number between the integer and the subtraction keeps it from both, and one behind the subtraction keeps it
    from multiplying before it subtracts.

    Args:
        operator: one of `STEPPED`.

    Preconditions: values have their shapes.
    Postconditions: no such operator reads a DequantizeLinear of computed integers with constant scales, one or one for
        each channel, through operators that round as ONNX Runtime does. Names of products stay.
    """

    everywhere = True

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = operator

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        if not _has_steps(node):
            raise NotApplicable("its result changes as little as its input")
        chains = {index: _chain(node.inputs[index]) for index in _stepped_inputs(node)}
        if self.operator == "Div" and 1 not in {index for index, chain in chains.items() if chain}:
            chains = {}  # a quotient by a number that is not 0 has no step
        found = {index: chain for index, chain in chains.items() if chain}
        if not found:
            raise NotApplicable("it reads no integers of 8 or 16 bits with constant scales")
        for index, (dequantize, *others) in found.items():
            name = f"{node.outputs[0].name}.exact_{index}"
            nodes = _dequantized(graph, dequantize, name)
            for step, other in enumerate(others):
                value = nodes[-1].outputs[0]
                copy = new_node(
                    other.op_type, [value, *other.inputs[1:]], name=f"{name}.{step}", output=f"{name}.{step}"
                )
                copy.attributes.update(other.attributes)
                copy.outputs[0].type, copy.outputs[0].shape = other.outputs[0].type, other.outputs[0].shape
                nodes.append(copy)
            graph.insert_before(node, nodes)
            node.replace_input_with(index, nodes[-1].outputs[0])


def _has_steps(node: ir.Node) -> bool:
    if node.op_type == "Cast":
        kind = ir.DataType(node.attributes.get_int("to", 0))
        return kind.is_integer() or kind == ir.DataType.BOOL
    if node.op_type == "Pow":
        exponent = constant(node.inputs[1])
        numbers = exponent.numpy() if exponent is not None else np.array([0.5])
        return bool((numbers < 1).any() or (numbers != np.rint(numbers)).any())
    return True


def _stepped_inputs(node: ir.Node) -> range:
    return range(2 if node.op_type in _COMPARISONS or node.op_type in ("Div", "Mod") else 1)


def _chain(value: ir.Value | None) -> list[ir.Node]:
    """Returns a DequantizeLinear and what leads from it to a value; empty if it does not come from one."""
    chain: list[ir.Node] = []
    while value is not None and (node := value.producer()) is not None:
        chain.insert(0, node)
        if node.op_type == "DequantizeLinear":
            return chain if _has_parameters(node) else []
        if node.op_type not in _EXACT or any(each is not None and constant(each) is None for each in node.inputs[1:]):
            return []
        value = node.inputs[0]
    return []


def _has_parameters(dequantize: ir.Node) -> bool:
    integers, *parameters = dequantize.inputs
    tensors = [stored_constant(each) for each in parameters if each is not None]
    if integers is None or integers.dtype not in _SMALL or constant(integers) is not None or integers.shape is None:
        return False
    numbers = all(tensor is not None and (tensor.size == 1 or len(tensor.shape) == 1) for tensor in tensors)
    return numbers and tensors[0] is not None and tensors[0].dtype == ir.DataType.FLOAT


def _dequantized(graph: ir.Graph, dequantize: ir.Node, name: str) -> list[ir.Node]:
    integers, scale, *others = dequantize.inputs
    assert integers is not None
    floats = new_node("Cast", [integers], {"to": ir.DataType.FLOAT}, name=f"{name}.floats", output=f"{name}.floats")
    floats.outputs[0].dtype, floats.outputs[0].shape = ir.DataType.FLOAT, integers.shape
    kept = in_floats(graph, floats.outputs[0], f"{name}.kept")
    zero = initializer(graph, f"{name}.zero", _numbers(dequantize, others[0] if others else None))
    shifted = new_node("Sub", [kept.outputs[0], zero], name=f"{name}.shifted", output=f"{name}.shifted")
    factor = initializer(graph, f"{name}.scale", _numbers(dequantize, scale))
    shifted.outputs[0].dtype, shifted.outputs[0].shape = ir.DataType.FLOAT, integers.shape
    apart = in_floats(graph, shifted.outputs[0], f"{name}.apart")
    real = new_node("Mul", [apart.outputs[0], factor], name=name, output=name)
    real.outputs[0].dtype, real.outputs[0].shape = ir.DataType.FLOAT, integers.shape
    return [floats, kept, shifted, apart, real]


def _numbers(dequantize: ir.Node, value: ir.Value | None) -> np.ndarray:
    """Returns scales or zero points: one, or one for each channel, in the shape that broadcasts along its axis."""
    tensor = stored_constant(value)
    if tensor is None:
        return np.zeros((), np.float32)
    numbers: np.ndarray = tensor.numpy().astype(np.float32)
    integers = dequantize.inputs[0]
    if numbers.size == 1 or integers is None or integers.shape is None:
        return numbers.reshape(())
    shape = [1] * len(integers.shape)
    shape[dequantize.attributes.get_int("axis", 1)] = -1
    return numbers.reshape(shape)
