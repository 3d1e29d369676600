"""Multiply-accumulates of each operator that is a product; `edgekit.graph.stats` derives the formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx_ir as ir

from edgekit.graph.operators import INTEGER_PRODUCTS, PRODUCTS

__all__ = ["FACTORS", "macs_of"]

Shape = tuple[int, ...]
ShapeOf = Callable[["ir.Value | None"], Shape]

FACTORS = {
    **dict.fromkeys(PRODUCTS | INTEGER_PRODUCTS, (0, 1)),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm"), (0, 3)),
}
"""Where each product of two factors has them among its inputs."""
_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})


def macs_of(node: ir.Node, shape_of: ShapeOf, zeros: int = 0) -> int:
    """Multiply-accumulates of one run of ``node``; 0 for operators that are no products, and where shapes are unknown.

    Products on integers (``QLinearConv`` and the like) count as their float counterparts.

    Args:
        node: any node.
        shape_of: sizes of a value, none where they are unknown.
        zeros: so many weights of a convolution are padding, and do not count.
    """
    if node.op_type in _RECURRENT:
        return _recurrent(node, shape_of)
    if node.op_type == "Attention":
        return _attention(node, shape_of)
    if node.op_type == "Einsum":
        return _einsum(node, shape_of)
    if node.op_type not in FACTORS:
        return 0
    left, right = (shape_of(node.inputs[index]) for index in FACTORS[node.op_type])
    if not left or not right:
        return 0
    if node.op_type == "ConvTranspose":
        return math.prod(left) * math.prod(right[1:])
    if "Conv" in node.op_type:
        return math.prod(shape_of(node.outputs[0])) * (math.prod(right[1:]) - zeros // right[0])
    return math.prod(shape_of(node.outputs[0])) * _inner_size(node, left)


def _inner_size(product: ir.Node, left: Sequence[int]) -> int:
    transposed = product.op_type in ("Gemm", "QGemm") and product.attributes.get_int("transA", 0) == 1
    return left[0] if transposed else left[-1]


def _recurrent(node: ir.Node, shape_of: ShapeOf) -> int:
    """Each step of each sequence multiplies input and state with all weights of all gates and directions."""
    sequence, of_input, of_state = (shape_of(value) for value in node.inputs[:3])
    return math.prod(sequence[:2]) * (math.prod(of_input) + math.prod(of_state)) if sequence else 0


def _attention(node: ir.Node, shape_of: ShapeOf) -> int:
    """Each number of a query meets each key, and each number of the result is a sum over all values."""
    query, key = shape_of(node.inputs[0]), shape_of(node.inputs[1])
    if not query or not key:
        return 0
    past = shape_of(node.inputs[4]) if len(node.inputs) > 4 else ()
    keys = key[-2] + (past[-2] if past else 0)
    return (math.prod(query) + math.prod(shape_of(node.outputs[0]))) * keys


def _einsum(node: ir.Node, shape_of: ShapeOf) -> int:
    """Each number of the output is a sum over all indices that it does not have."""
    if len(node.inputs) < 2:
        return 0
    read, _, written = node.attributes.get_string("equation", "").replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for term, value in zip(read.split(","), node.inputs, strict=True):
        first, _, last = term.partition("...")
        shape = shape_of(value)
        sizes |= dict(zip(first, shape, strict=False))
        sizes |= dict(zip(reversed(last), reversed(shape), strict=False))
    kept = written or "".join(index for index in sizes if read.count(index) == 1)
    return math.prod(shape_of(node.outputs[0])) * math.prod(size for index, size in sizes.items() if index not in kept)
