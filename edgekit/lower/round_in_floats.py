"""Computes the rounding of a quantized file in floats, for integers that processors have no kernels for."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.graph.operators import PRODUCTS
from edgekit.graph.passes.remove_static_quantization import RemoveStaticQuantization

__all__ = ["FEW_BITS", "ROUNDED", "other_product", "round_in_floats"]

FEW_BITS = frozenset({ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT8, ir.DataType.UINT8})
"""Integers of 8 bits and fewer."""
ROUNDED = FEW_BITS | {ir.DataType.INT16, ir.DataType.UINT16, ir.DataType.INT32}
"""All integers of quantized values, those of biases too."""


def round_in_floats(model: ir.Model, types: frozenset[ir.DataType]) -> bool:
    """Makes floats of quantized values in a file with integers that processors have no kernels for.

    OpenVINO 2026.4 compiles 4-bit activations to code that ends its process, and multiplies some numbers of 16 bits in
    8; ONNX Runtime has no integer convolution of 4 bits, and writes one that it cannot load. Weights become the numbers
    that they stand for; activations are divided by their scale, rounded, limited and multiplied by it, so that an
    engine in float has the numbers of the file.

    Args:
        model: the graph of an engine in float; values have their types and ranks.
        types: the element types that become floats.

    Returns:
        Whether anything changed: the file has such a product (`other_product`), and its integers are those of Q/DQ
        pairs and operators that move elements.
    """
    return other_product(model) is not None and RemoveStaticQuantization(types, rounding=True)(model).modified


def other_product(model: ir.Model) -> str | None:
    """Names a product whose factors are both integers, of which one has no kernels on processors: not of 8 bits."""
    for node in model.graph.all_nodes():
        if node.op_type not in PRODUCTS:
            continue
        sources = [value.producer() if value is not None else None for value in node.inputs[:2]]
        if not all(source and source.op_type == "DequantizeLinear" for source in sources):
            continue
        types = [value.dtype for source in sources if source is not None and (value := source.inputs[0]) is not None]
        other = next((each for each in types if each is not None and each.is_integer() and each.bitwidth != 8), None)
        if other is not None:
            return f"{other.name.lower()} at node '{node.name or node.outputs[0].name}'"
    return None
