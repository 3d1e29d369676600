"""Multiplies floats where a backend would multiply integers wrongly, or round a factor that is not quantized."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.graph.operators import MOVES
from edgekit.lower.rewriting import NotApplicable, RewritePass, constant
from edgekit.lower.stop_dequantizers import in_floats

__all__ = ["FloatFactors", "FloatRows"]

_BYTES = frozenset({ir.DataType.INT8, ir.DataType.UINT8})


class FloatFactors(RewritePass):
    """Inserts a ``Max`` with the lowest number before both factors of a product that are not integers for one kernel.

    ONNX Runtime 1.32 fuses a product of factors from DequantizeLinear whatever their scales are. Its kernels take one
    scale for the first factor, and for constant weights one for each column: with others, the engine fails when it
    runs, or multiplies columns by the scales of rows. Of weights alone in 8 bits it makes a ``MatMulNBits``, which
    rounds the other factor to 8 bits, also where that has 16.

    Args:
        operator: ``MatMul`` or ``Gemm``.

    Preconditions: values have their types.
    Postconditions: no such product reads a DequantizeLinear of 8 bits, unless both factors have scales that the kernels
        take. Names stay; results are those of the graph.
    """

    everywhere = True

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = operator

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        first, second = (_source(value) for value in node.inputs[:2])
        if first is None and second is None:
            raise NotApplicable("no factor has 8 bits")
        if second is None and first is not None and not _has_several(first):
            raise NotApplicable("it is not fused")
        if first is None and second is not None and constant(second.inputs[0]) is None:
            raise NotApplicable("it is not fused")
        if first is not None and second is not None and _are_of_kernel(node, first, second):
            raise NotApplicable("there is a kernel for its scales")
        for index in (0, 1):
            _insert_max(node, index, graph)


class FloatRows(RewritePass):
    """Inserts a ``Max`` with the lowest number before the first factor of a product that has several zero points.

    OpenVINO 2026.4 takes scales of rows. With zero points of rows that are not 0 it fails to compile.

    Args:
        operator: ``MatMul`` or ``Gemm``.

    Preconditions: values have their shapes.
    Postconditions: no such product reads such a factor from a DequantizeLinear, also through operators that move
        elements. Names and results stay.
    """

    everywhere = True

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = operator

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        value = node.inputs[0]
        source = value.producer() if value is not None else None
        while source is not None and source.op_type in MOVES:
            source = source.inputs[0].producer() if source.inputs[0] is not None else None
        if source is None or source.op_type != "DequantizeLinear":
            raise NotApplicable("its first factor is not dequantized")
        zero = source.inputs[2] if len(source.inputs) > 2 else None
        tensor = constant(zero)
        if not _has_several(source) or zero is None or (tensor is not None and not tensor.numpy().any()):
            raise NotApplicable("its first factor has one zero point, or those are 0")
        _insert_max(node, 0, graph)


def _insert_max(node: ir.Node, index: int, graph: ir.Graph) -> None:
    value = node.inputs[index]
    assert value is not None
    kept = in_floats(graph, value, f"{node.outputs[0].name}.factor_{index}")
    graph.insert_before(node, [kept])
    node.replace_input_with(index, kept.outputs[0])


def _source(value: ir.Value | None) -> ir.Node | None:
    """Returns the DequantizeLinear of 8 bits that computes a value."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return None
    # Zero points have the type of the integers, which may not be written down.
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    dtype = node.inputs[0].dtype or (zero.dtype if zero is not None else None)
    return node if dtype in _BYTES else None


def _has_several(source: ir.Node) -> bool:
    scale = source.inputs[1]
    return scale is not None and scale.shape is not None and any(size != 1 for size in scale.shape)


def _are_of_kernel(node: ir.Node, first: ir.Node, second: ir.Node) -> bool:
    return not _has_several(first) and _has_scales_of_columns(node, second)


def _has_scales_of_columns(node: ir.Node, source: ir.Node) -> bool:
    """Whether there is one scale, or one for each column of a matrix of constants."""
    if not _has_several(source):
        return True
    matrix = constant(source.inputs[0])
    if matrix is None or len(matrix.shape) != 2:
        return False
    if source.attributes.get_int("block_size", 0):
        return False
    return source.attributes.get_int("axis", 1) % 2 == int(not node.attributes.get_int("transB", 0))
