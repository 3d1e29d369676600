"""Makes signed quantized values unsigned, for a backend that loses their sign before a convolution."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import initializer, stored_constant

__all__ = ["UnsignedIntegers"]

_MIDDLE = 128
_CROSSED = frozenset(
    "AveragePool Clip Concat DepthToSpace Expand Flatten Gather Identity MaxPool Pad Relu Reshape Resize Slice "
    "SpaceToDepth Split Squeeze Transpose Unsqueeze".split()
)
"""Operators that OpenVINO may compute on integers, and moves Q or DQ across."""


class UnsignedIntegers(ir.passes.InPlacePass):
    """Replaces ``int8`` that a convolution reads by ``uint8`` with a zero point that is larger by 128.

    Both stand for the same numbers. Where a graph has a Concat, OpenVINO 2026.4 gives all integers of a group of
    operators that keep them (a pooling, a Reshape, a Transpose, a Concat) the same type, and takes ``uint8`` where a
    convolution without groups reads them: of ``int8``, negative numbers become 0. A small network in ``int8`` kept
    -4 dB. Matrix products, transposed and grouped convolutions are right.

    Preconditions: values have their types.
    Postconditions: if there is a Concat, no convolution without groups reads, through operators that a backend moves
        Q/DQ pairs across, a pair of ``int8`` with constant zero points that is neither an input nor an output. Names
        and results stay.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = list(model.graph.all_nodes())
        if not any(node.op_type == "Concat" for node in nodes):
            return ir.passes.PassResult(model, modified=False)
        found = [node for node in nodes if node.op_type == "QuantizeLinear" and _loses_sign(node)]
        for node in found:
            _use_unsigned(node)
        return ir.passes.PassResult(model, modified=bool(found))


def _loses_sign(quantize: ir.Node) -> bool:
    integers = quantize.outputs[0]
    readers = [use.node for use in integers.uses()]
    if integers.dtype != ir.DataType.INT8 or integers.is_graph_output():
        return False
    if any(node.op_type != "DequantizeLinear" for node in readers):
        return False
    return all(map(_has_zero, [quantize, *readers])) and any(_leads_to_convolution(node.outputs[0]) for node in readers)


def _has_zero(node: ir.Node) -> bool:
    return len(node.inputs) > 2 and stored_constant(node.inputs[2]) is not None


def _leads_to_convolution(value: ir.Value) -> bool:
    waiting, seen = [value], set[ir.Value]()
    while waiting:
        value = waiting.pop()
        seen.add(value)
        for user, index in value.uses():
            if user.op_type == "Conv" and index == 0 and user.attributes.get_int("group", 1) == 1:
                return True
            if user.op_type in _CROSSED:
                waiting += [output for output in user.outputs if output not in seen]
    return False


def _use_unsigned(quantize: ir.Node) -> None:
    integers = quantize.outputs[0]
    for node in [quantize, *(use.node for use in integers.uses())]:
        assert isinstance(node.graph, ir.Graph)
        zero = stored_constant(node.inputs[2])
        assert zero is not None
        unsigned = (zero.numpy().astype(np.int16) + _MIDDLE).astype(np.uint8)
        node.replace_input_with(2, initializer(node.graph, f"{node.outputs[0].name}.unsigned_zero", unsigned))
    integers.type = ir.TensorType(ir.DataType.UINT8)
