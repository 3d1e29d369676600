"""Makes a float model of a file whose activations and weights are quantized."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgekit.graph.insert import insert_behind, new_constant
from edgekit.graph.operators import uses_quantized_values
from edgekit.graph.passes.remove_dead import RemoveDead
from edgekit.graph.quantized_values import Quantization, data_inputs, quantized_value, quantized_values

__all__ = ["RemoveStaticQuantization"]

_PAIRS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_KEEPS_ITS_RANGE = frozenset("Clip HardSigmoid HardSwish LeakyRelu LogSoftmax PRelu Relu Sigmoid Softmax Tanh".split())
"""Activation functions: none was removed between one of them and a quantizer."""


class RemoveStaticQuantization(ir.passes.InPlacePass):
    """Replaces quantized weights by the numbers that they stand for, and quantized activations by floats.

    Args:
        types: element types of the quantized values that are replaced; None: all, or nothing if one cannot be.
        rounding: activations are rounded as in the file, by arithmetic on floats.

    The float layers can be calibrated and quantized again, for a target that does not have the file's integers. Without
    ``rounding``, only the rounding of the activations is lost. A quantizer of activations cuts off what is beyond its
    range too, and ONNX Runtime's static quantizer removes a Relu or Clip before one with the same range: where the
    range begins or ends at 0, or is symmetric, a ``Clip`` with this range takes the place of the quantizer.

    Preconditions: values have their types and ranks; the opset is 13 or newer; operators of ONNX Runtime for integers
        are Q/DQ pairs. Constants are folded.
    Postconditions: if the pass changes the graph, no node uses such quantized values; inputs and outputs of integers
        are converted. Layers and their outputs keep their names. If one node cannot be replaced, nothing changes.
    """

    def __init__(self, types: frozenset[ir.DataType] | None = None, *, rounding: bool = False) -> None:
        super().__init__()
        self._types, self._rounding = types, rounding

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        pairs = [node for node in model.graph.all_nodes() if self._is_wanted(node)]
        found = None
        if pairs and all(node.op_type in _PAIRS for node in pairs):
            found = quantized_values(model, self._types)
        if not found or not all(_may_cross_the_border(*each) for each in found.items()):
            return ir.passes.PassResult(model, modified=False)
        if self._rounding and not all(map(_may_be_rounded, found.items())):
            return ir.passes.PassResult(model, modified=False)
        outputs = {value: value.type for value in found if value.is_graph_output()}
        for value, quantization in found.items():
            _use_floats(model.graph, value, quantization)
        for value, kind in outputs.items():
            _quantize_output(model.graph, value, kind, found[value])
        for node in pairs:
            _replace(node, found, rounding=self._rounding)
        RemoveDead()(model)
        return ir.passes.PassResult(model, modified=True)

    def _is_wanted(self, node: ir.Node) -> bool:
        if self._types is None:
            return uses_quantized_values(node)
        return node.op_type in _PAIRS and quantized_value(node).dtype in self._types


def _may_cross_the_border(value: ir.Value, quantization: Quantization) -> bool:
    """Whether a value is inside of the graph, or an input or output that arithmetic converts."""
    return quantization.is_plain or not (value.is_graph_input() or value.is_graph_output())


def _may_be_rounded(item: tuple[ir.Value, Quantization]) -> bool:
    """Whether a value is constant, or arithmetic can round it: its scales are not those of blocks."""
    value, quantization = item
    return value.const_value is not None or (not quantization.block and quantization.dtype.is_integer())


def _use_floats(graph: ir.Graph, value: ir.Value, quantization: Quantization) -> None:
    """Makes floats of a value, or lets all that reads it as integers read floats."""
    if value.const_value is None and not value.is_graph_input():
        value.type = ir.TensorType(_float_type(quantization))
        _fill_with_zero_point(value, quantization)
        return
    readers = [
        (reader, index)
        for reader, index in value.uses()
        if reader.op_type == "DequantizeLinear" or index in data_inputs(reader)
    ]
    if value.const_value is not None:
        owner = value.graph if isinstance(value.graph, ir.Graph) else graph
        floats = new_constant(owner, f"{value.name}.floats", quantization.numbers_of(value.const_value.numpy()))
    else:
        floats = _dequantized_input(graph, value, quantization)
    for reader, index in readers:
        reader.replace_input_with(index, floats)


def _float_type(quantization: Quantization) -> ir.DataType:
    return ir.DataType.from_numpy(quantization.scale.dtype)


def _fill_with_zero_point(value: ir.Value, quantization: Quantization) -> None:
    """Lets a ``Pad`` without a number of its own fill with what the integer 0 stands for."""
    node = value.producer()
    if node is None or node.op_type != "Pad" or len(data_inputs(node)) > 1:
        return
    assert isinstance(node.graph, ir.Graph)
    fill = quantization.numbers_of(np.zeros((), np.int64))
    node.resize_inputs(max(3, len(node.inputs)))
    node.replace_input_with(2, new_constant(node.graph, f"{value.name}.fill", fill.reshape(())))


def _dequantized_input(graph: ir.Graph, value: ir.Value, quantization: Quantization) -> ir.Value:
    """Returns the floats of an input of integers."""
    dtype, name = _float_type(quantization), f"{value.name}.floats"
    numbers = {"zero": quantization.zero, "scale": quantization.scale}
    zero, scale = (
        new_constant(graph, f"{name}.{part}", each.astype(quantization.scale.dtype).reshape(()))
        for part, each in numbers.items()
    )
    cast = ir.node("Cast", [value], {"to": dtype}, name=f"{name}.cast")
    shifted = ir.node("Sub", [cast.outputs[0], zero], name=f"{name}.shifted")
    scaled = ir.node("Mul", [shifted.outputs[0], scale], name=name)
    for node in (cast, shifted, scaled):
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = node.name, ir.TensorType(dtype), value.shape
    insert_behind(graph, value, [cast, shifted, scaled])
    return scaled.outputs[0]


def _quantize_output(
    graph: ir.Graph, value: ir.Value, kind: ir.TypeProtocol | None, quantization: Quantization
) -> None:
    """Makes the integers of an output from its floats: ``clip(round(x / scale) + zero)``."""
    name, (low, high) = value.name, quantization.limits
    producer = value.producer()
    assert producer is not None
    value.name = f"{name}.floats"
    numbers = {"scale": quantization.scale, "zero": quantization.zero, "low": low, "high": high}
    scale, zero, lowest, highest = (
        new_constant(graph, f"{name}.{part}", np.asarray(each, quantization.scale.dtype).reshape(()))
        for part, each in numbers.items()
    )
    nodes = [ir.node("Div", [value, scale], name=f"{name}.steps")]
    nodes.append(ir.node("Round", [nodes[-1].outputs[0]], name=f"{name}.rounded"))
    nodes.append(ir.node("Add", [nodes[-1].outputs[0], zero], name=f"{name}.shifted"))
    nodes.append(ir.node("Clip", [nodes[-1].outputs[0], lowest, highest], name=f"{name}.limited"))
    for node in nodes:
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = node.name, value.type, value.shape
    nodes.append(ir.node("Cast", [nodes[-1].outputs[0]], {"to": quantization.dtype}, name=f"{name}.integers"))
    result = nodes[-1].outputs[0]
    result.name, result.type, result.shape = name, kind, value.shape
    graph.insert_after(producer, nodes)
    graph.outputs[graph.outputs.index(value)] = result


def _replace(node: ir.Node, found: Mapping[ir.Value, Quantization], *, rounding: bool) -> None:
    """Replaces a quantizer by arithmetic, a Clip or nothing, and a dequantizer, which reads floats now, by nothing."""
    graph, output = node.graph, node.outputs[0]
    assert isinstance(graph, ir.Graph)
    if node.op_type != "QuantizeLinear":
        made = [ir.node("Identity", [node.inputs[0]], name=node.name)]
    elif rounding:
        made = _rounded(graph, node, found[output])
    else:
        made = [_limited(graph, node, _bounds(node, found[output]))]
    made[-1].outputs[0].type, made[-1].outputs[0].shape = output.type, output.shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], made, [output], made[-1].outputs)


def _limited(graph: ir.Graph, quantizer: ir.Node, bounds: tuple[np.ndarray, np.ndarray] | None) -> ir.Node:
    """Returns a Clip with bounds, or a node that changes nothing if there are none."""
    if bounds is None:
        return ir.node("Identity", [quantizer.inputs[0]], name=quantizer.name)
    name = quantizer.outputs[0].name
    ends = [new_constant(graph, f"{name}.{end}", each) for end, each in zip(("low", "high"), bounds, strict=True)]
    return ir.node("Clip", [quantizer.inputs[0], *ends], name=quantizer.name)


def _rounded(graph: ir.Graph, quantizer: ir.Node, quantization: Quantization) -> list[ir.Node]:
    """Returns ``clip(round(x / scale), low - zero, high - zero) * scale``, step by step."""
    value, output = quantizer.inputs[0], quantizer.outputs[0]
    assert value is not None
    rank = len(output.shape) if output.shape is not None and quantization.scale.size > 1 else 0
    scale, zero = quantization.along_axis(rank)
    low, high = (end - zero for end in quantization.limits)
    dtype = quantization.scale.dtype
    constants = {
        part: new_constant(graph, f"{output.name}.{part}", each.astype(dtype))
        for part, each in (("scale", scale), ("low", low), ("high", high))
    }
    nodes: list[ir.Node] = []
    for operator, part in (("Div", "scale"), ("Round", ""), ("Max", "low"), ("Min", "high"), ("Mul", "scale")):
        nodes.append(ir.node(operator, [value, *([constants[part]] if part else [])]))
        value = nodes[-1].outputs[0]
        nodes[-1].name = value.name = f"{output.name}.{operator.lower()}"
        value.type, value.shape = output.type, output.shape
    nodes[-1].name = quantizer.name
    return nodes


def _bounds(quantizer: ir.Node, quantization: Quantization) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the range of a quantizer that may stand for an activation function; None if it does not."""
    data = quantizer.inputs[0]
    producer = data.producer() if data is not None else None
    if producer is None or producer.op_type in _KEEPS_ITS_RANGE or data_inputs(producer):
        return None
    if not (quantization.is_plain and quantization.dtype.is_integer()):
        return None
    zero = float(quantization.zero.reshape(-1)[0])
    low, high = quantization.limits
    steps = low - zero, high - zero
    if 0 not in steps and abs(sum(steps)) > 1:
        return None
    begin, end = (np.asarray(each * quantization.scale.reshape(()), quantization.scale.dtype) for each in steps)
    return begin, end
