"""Makes unsigned quantized values signed, for TensorRT, which has integers around a zero point of 0 alone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph.quantized_values import Quantization, data_inputs, quantized_values
from edgekit.lower.rewriting import constant, initializer

__all__ = ["SignedIntegers"]

_MIDDLE = 128


class SignedIntegers(ir.passes.InPlacePass):
    """Replaces ``uint8`` around 128 by ``int8`` around 0, and constants by what they are beyond their zero points.

    Both stand for the same numbers. A file that was quantized symmetrically to ``uint8`` runs on TensorRT's integers
    so.

    Preconditions: values have their types and ranks. Operators of ONNX Runtime for integers are Q/DQ pairs.
    Postconditions: the graph has no quantized values in ``uint8`` and no zero points, if all its unsigned activations
        have zero points of 128, all others 0, and the differences of all constants from their zero points fit
        ``int8``; else it does not change. Names and results stay.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = quantized_values(model)
        if not found or not all(_fits(*each) for each in found.items()):
            return ir.passes.PassResult(model, modified=False)
        changed = {value: each for value, each in found.items() if _is_shifted(each)}
        for value, quantization in changed.items():
            _use_signed(model.graph, value, quantization)
        return ir.passes.PassResult(model, modified=bool(changed))


def _is_shifted(quantization: Quantization) -> bool:
    return quantization.dtype is ir.DataType.UINT8 or (
        quantization.dtype is ir.DataType.INT8 and bool(quantization.zero.any())
    )


def _fits(value: ir.Value, quantization: Quantization) -> bool:
    """Whether it is signed, or can be signed."""
    if not _is_shifted(quantization):
        return True
    tensor = constant(value)
    if tensor is not None:
        steps = _steps(tensor.numpy(), quantization)
        return not quantization.block and bool((steps == steps.astype(np.int8)).all())
    inside = not value.is_graph_input() and not value.is_graph_output()
    around = quantization.dtype is ir.DataType.UINT8 and bool((quantization.zero == _MIDDLE).all())
    return inside and around


def _steps(integers: np.ndarray, quantization: Quantization) -> np.ndarray:
    return np.asarray(integers - quantization.along_axis(integers.ndim)[1])


def _use_signed(graph: ir.Graph, value: ir.Value, quantization: Quantization) -> None:
    """Makes a value signed, with its zero points; what reads a constant reads a signed copy."""
    readers = list(value.uses())
    tensor, owner = constant(value), value.graph if isinstance(value.graph, ir.Graph) else graph
    if tensor is None:
        value.type = ir.TensorType(ir.DataType.INT8)
        producer = value.producer()
        if producer is not None and producer.op_type == "QuantizeLinear":
            _use_zero(producer, quantization)
        elif producer is not None and producer.op_type == "Pad" and len(data_inputs(producer)) == 1:
            producer.resize_inputs(max(3, len(producer.inputs)))  # it fills with 0, which is another number now
            producer.replace_input_with(2, initializer(owner, f"{value.name}.fill", np.asarray(-_MIDDLE, np.int8)))
    signed = None
    for reader, index in readers:
        if reader.op_type != "DequantizeLinear" and index not in data_inputs(reader):
            continue
        if reader.op_type == "DequantizeLinear":
            _use_zero(reader, quantization)
        if tensor is not None:
            if signed is None:
                steps = _steps(tensor.numpy(), quantization).astype(np.int8)
                signed = initializer(owner, f"{value.name}.signed", steps)
            reader.replace_input_with(index, signed)


def _use_zero(node: ir.Node, quantization: Quantization) -> None:
    """Gives a QuantizeLinear or DequantizeLinear zero points of 0."""
    assert isinstance(node.graph, ir.Graph)
    scale = node.inputs[1]
    shape = quantization.scale.shape
    assert scale is not None
    node.resize_inputs(3)
    node.replace_input_with(2, initializer(node.graph, f"{node.outputs[0].name}.zero", np.zeros(shape, np.int8)))
