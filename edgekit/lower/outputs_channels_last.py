"""Outputs the results of integer convolutions in the layout in which they are computed: channels last."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.lower.rewriting import NHWC, dequantizer, transposed

__all__ = ["OutputsChannelsLast"]


class OutputsChannelsLast(ir.passes.InPlacePass):
    """Adds a ``Transpose`` to channels-last after each 4-D output of a quantized ``Conv``, or of a sum of two.

    ONNX is channels-first, so a backend that computes channels-last copies each output once more. A view of the array
    with its axes in ONNX's order needs no copy.

    Attributes:
        turned: names of the transposed outputs, in the order of the graph's outputs.

    Preconditions: operators are standard ones. Scales and zero points are initializers.
    Postconditions: the axes of the outputs in ``turned`` are ``(N, H, W, C)``; their names and element types stay.
        These are the 4-D outputs of a Conv whose factors are both dequantized from 8 bits, or of an Add of two such
        Convs. Other consumers of such a value still read it channels-first, as ``<output>.channels_first``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.turned: list[str] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        outputs = model.graph.outputs
        self.turned = [
            _transpose_output(model.graph, index)
            for index, value in enumerate(list(outputs))
            if value.shape is not None and len(value.shape) == len(NHWC) and _is_quantized_result(value)
        ]
        return ir.passes.PassResult(model, modified=bool(self.turned))


def _is_quantized_result(value: ir.Value) -> bool:
    """Whether a quantized convolution, or an Add of such, computes ``value``."""
    node = value.producer()
    if node is not None and node.op_type == "Add":
        return all(summand is not None and _is_convolved(summand) for summand in node.inputs)
    return _is_convolved(value)


def _is_convolved(value: ir.Value) -> bool:
    node = value.producer()
    if node is None or node.op_type != "Conv":
        return False
    return all(dequantizer(factor) is not None for factor in node.inputs[:2])


def _transpose_output(graph: ir.Graph, index: int) -> str:
    first = graph.outputs[index]
    name = first.name or ""
    assert first.shape is not None
    first.name = f"{name}.channels_first"
    transpose = transposed(first, NHWC, name=f"{name}.turned", output=name)
    last = transpose.outputs[0]
    last.type, last.shape = first.type, ir.Shape([first.shape[axis] for axis in NHWC])
    graph.append(transpose)
    graph.outputs[index] = last
    return name
