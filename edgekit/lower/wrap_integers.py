"""Computes integers of 8 and 16 bits in 32 bits, for a backend whose arithmetic on them saturates."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.arguments import argument
from edgekit.errors import GraphError
from edgekit.lower.rewriting import NotApplicable, RewritePass, constant, initializer, new_node, replace_node

__all__ = ["WRAPPING", "WrapIntegers"]

WRAPPING = ("Abs", "Add", "BitShift", "Mul", "Neg", "Sub")
"""Operators whose results may not fit into the type of their operands."""
_NARROW = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16})


class WrapIntegers(RewritePass):
    """Casts integers of 8 and 16 bits to 32 bits, computes, and casts back, which drops the upper bits.

    ONNX Runtime's results overflow as those of C. OpenVINO 2026.4 limits them to the smallest and the largest number of
    the type; in 32 bits, it overflows too.

    Args:
        operator: one of `WRAPPING`.

    Preconditions: values have their types.
    Postconditions: no node of the operator reads integers of 8 or 16 bits. Names stay; results are equal.
    """

    everywhere = True

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = operator

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`.

        Raises:
            GraphError: it shifts numbers of 32 or 64 bits, which OpenVINO computes in 32 bits with a sign.
        """
        dtype, name = node.outputs[0].dtype, node.outputs[0].name
        if self.operator == "BitShift" and dtype in (ir.DataType.UINT32, ir.DataType.UINT64):
            raise GraphError(
                f"node '{node.name or name}': this target cannot compute BitShift of {dtype.name.lower()}: its "
                "integers have 32 bits, one of them for the sign",
                hint=f"build the model with {argument('target', 'cpu')}",
            )
        if dtype not in _NARROW:
            raise NotApplicable("its integers have 32 bits or more")
        wide = [
            new_node("Cast", [value], {"to": ir.DataType.INT32}, name=f"{name}.wide{i}", output=f"{name}.wide{i}")
            for i, value in enumerate(node.inputs)
        ]
        nodes = [*wide, _computed(node, [cast.outputs[0] for cast in wide])]
        if self.operator == "BitShift" and not _is_below(node.inputs[1], dtype.bitwidth):
            nodes += _zero_beyond(graph, wide[1].outputs[0], nodes[-1].outputs[0], dtype.bitwidth)
        nodes.append(new_node("Cast", nodes[-1].outputs, {"to": dtype}, name=f"{node.name}.narrow"))
        replace_node(node, nodes)


def _computed(node: ir.Node, operands: list[ir.Value]) -> ir.Node:
    computed = new_node(node.op_type, operands, name=node.name, output=f"{node.outputs[0].name}.wide")
    computed.attributes.update(node.attributes)
    return computed


def _is_below(value: ir.Value | None, limit: int) -> bool:
    tensor = constant(value)
    return tensor is not None and bool((tensor.numpy() < limit).all())


def _zero_beyond(graph: ir.Graph, count: ir.Value, shifted: ir.Value, bits: int) -> list[ir.Node]:
    """Makes the result of a shift by all bits or more zero: OpenVINO shifts by the remainder of 32."""
    stem = shifted.name
    limit = initializer(graph, f"{stem}.bits", np.asarray(bits, np.int32))
    zero = initializer(graph, f"{stem}.none", np.asarray(0, np.int32))
    within = new_node("Less", [count, limit], name=f"{stem}.within", output=f"{stem}.within")
    chosen = new_node("Where", [within.outputs[0], shifted, zero], name=f"{stem}.chosen", output=f"{stem}.chosen")
    return [within, chosen]
