"""Fuses integer matrix products with float results, including their bias."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.lower.rewriting import (
    RUNTIME_DOMAIN,
    NotApplicable,
    RewritePass,
    constant,
    dequantizer,
    new_node,
    replace_node,
)

__all__ = ["FuseIntegerMatMul"]


class FuseIntegerMatMul(RewritePass):
    """Replaces ``MatMul(DQ, DQ)`` without a Q after it, and the Add of its bias, by ``MatMulIntegerToFloat``.

    ONNX Runtime fuses ``DQ -> MatMul -> Q``. What a Transformer adds to a product (bias, residual, mask) is float, so a
    Q/DQ pair between the two costs accuracy and time without benefit: the cosine similarity of MiniLM's sentences is
    0.93 with it, 0.99 without. Without a Q after it, ONNX Runtime (1.29 and later) makes a ``MatMulNBits``, which
    quantizes again at run time and takes longer.

    Preconditions: operators are the standard ones that quantization writes. Scales and zero points are initializers.
    Postconditions: a MatMul of two factors that are dequantized from 8 bits, the first with one scale and the second
        with one scale or one per column, remains only if a QuantizeLinear alone reads it, directly or after a ReLU:
        ONNX Runtime fuses these. The new node has the MatMul's name. If the only consumer of the product adds a vector
        with one number per column, this becomes the bias of the new node, which outputs the sum. Unused
        DequantizeLinears are left to `RemoveDead`. Weights are not read.
    """

    operator = "MatMul"

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        a, b = (dequantizer(value) for value in node.inputs[:2])
        if a is None or b is None:
            raise NotApplicable("a factor is not dequantized from 8 bits with constant scales")
        if _sizes(a.inputs[1]):
            raise NotApplicable("its first factor has more than one scale")
        if not _has_scales_by_column(b):
            raise NotApplicable("the scales of its second factor are not per column")
        if _is_quantized(node.outputs[0]):
            raise NotApplicable("ONNX Runtime fuses it with the QuantizeLinear after it")
        add = _only_consumer(node)
        bias = _bias(add, b.inputs[0]) if add is not None else None
        inputs = [a.inputs[0], b.inputs[0], a.inputs[1], b.inputs[1], a.inputs[2], b.inputs[2]]
        inputs += [] if bias is None else [bias]
        fused = new_node("MatMulIntegerToFloat", inputs, name=node.name, domain=RUNTIME_DOMAIN)
        replace_node(node, [fused], last=None if bias is None else add)
        graph.opset_imports.setdefault(RUNTIME_DOMAIN, 1)


def _sizes(value: ir.Value | None) -> tuple[int, ...] | None:
    """Returns the shape of a constant; None if ``value`` is not constant."""
    tensor = constant(value)
    return None if tensor is None else tuple(tensor.shape.numpy())


def _has_scales_by_column(b: ir.Node) -> bool:
    """Whether the scales can be applied after the product: there is one, or one per column of a matrix."""
    scales, weights = _sizes(b.inputs[1]), _sizes(b.inputs[0])
    if not scales:
        return True
    axis = b.attributes.get_int("axis", 1)
    return len(scales) == 1 and weights is not None and len(weights) == 2 and axis in (-1, 1)


def _is_quantized(product: ir.Value) -> bool:
    """Whether only a Q follows, directly or after a ReLU: ONNX Runtime fuses all three into one operator."""
    reader = _sole_reader(product)
    if reader is not None and reader.op_type == "Relu":
        reader = _sole_reader(reader.outputs[0])
    return reader is not None and reader.op_type == "QuantizeLinear"


def _sole_reader(value: ir.Value) -> ir.Node | None:
    users = value.uses()
    return next(iter(users)).node if len(users) == 1 and not value.is_graph_output() else None


def _only_consumer(node: ir.Node) -> ir.Node | None:
    reader = _sole_reader(node.outputs[0])
    return reader if reader is not None and reader.graph is node.graph else None


def _bias(add: ir.Node, weight: ir.Value | None) -> ir.Value | None:
    """Returns the vector (one number per column of ``weight``) that ``add`` adds; None if there is none."""
    columns, others = _sizes(weight), [value for value in add.inputs if constant(value) is not None]
    if add.op_type != "Add" or not columns or [_sizes(other) for other in others] != [columns[-1:]]:
        return None
    return others[0]
