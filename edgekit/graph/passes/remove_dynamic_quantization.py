"""Makes the layers of a dynamically quantized file float layers again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgekit.graph.insert import new_constant
from edgekit.graph.operators import uses_quantized_values
from edgekit.graph.passes.decomposing import input_of
from edgekit.graph.passes.remove_dead import RemoveDead

__all__ = ["RemoveDynamicQuantization", "removed_quantization_note"]

_REMOVED = "edgekit.removed_dynamic_quantization"
"""Graph metadata: number of layers that computed with integers in the file."""
_MOVES = frozenset({"Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
_PRODUCTS = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}


def removed_quantization_note(graph: ir.Model, target: str) -> str:
    """Says that the layers of a dynamically quantized file are floats for this target; empty if they are not."""
    count = graph.metadata_props.get(_REMOVED)
    if count is None:
        return ""
    layers = "1 layer is" if count == "1" else f"{count} layers are"
    return (
        f"the file is dynamically quantized, which {target} has no kernels for: {layers} read as floats, with the "
        "numbers that the 8-bit weights stand for, and compared with these"
    )


class RemoveDynamicQuantization(ir.passes.InPlacePass):
    """Replaces dynamically quantized layers by layers of floats, with the numbers that their weights stand for.

    ``quantize_dynamic`` of ONNX Runtime writes such files: weights have scales, and each run finds those of the
    activations (``DynamicQuantizeLinear``, ``DynamicQuantizeLSTM``). Only the rounding of the activations is lost.
    The float layers can be calibrated and quantized, or computed in FP16, like those of any float file.

    Preconditions: none; a file of any opset that has these operators.
    Postconditions: if the pass changes the graph, no node uses quantized values, but for those that compute from
        constants (see `DequantizeWeights`); layers and their outputs keep their names, and the graph's metadata has
        their number. If one node cannot be replaced, nothing changes.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = list(model.graph.all_nodes())
        found = [each for each in map(_float_form, nodes) if each is not None]
        replaced = {node for each in found for node in each.nodes}
        replaced |= {node for node in nodes if _is_constant(node)}
        scales = [node for node in nodes if node.op_type == "DynamicQuantizeLinear"]
        replaced |= {node for node in scales if all(use.node in replaced for out in node.outputs for use in out.uses())}
        others = [node for node in nodes if uses_quantized_values(node) and node not in replaced]
        layers = [each for each in found if isinstance(each, _FloatLayer)]
        if others or not layers:
            return ir.passes.PassResult(model, modified=False)
        for each in found:
            each.replace()
        RemoveDead()(model)
        model.metadata_props[_REMOVED] = str(len(layers))
        return ir.passes.PassResult(model, modified=True)


class _InputOf(NamedTuple):
    """An input of a node; another value once the layer before it has been replaced."""

    node: ir.Node
    position: int

    @property
    def value(self) -> ir.Value | None:
        return input_of(self.node, self.position)


@dataclass(frozen=True, eq=False)
class _FloatLayer:
    """A float layer that computes what quantized nodes do.

    Attributes:
        nodes: the quantized nodes, and what scales their result; the first one has the name, the last one the outputs.
        operator: ONNX operator of the float layer.
        inputs: its inputs; arrays become initializers.
        bias: what is added to its output, if that is not one of its inputs.
        domain: of the operator.
    """

    nodes: Sequence[ir.Node]
    operator: str
    inputs: Sequence[_InputOf | np.ndarray]
    bias: _InputOf | None = None
    domain: str = ""

    def replace(self) -> None:
        first, last = self.nodes[0], self.nodes[-1]
        graph = last.graph
        assert isinstance(graph, ir.Graph)
        name = first.name or last.outputs[0].name or ""
        inputs = [
            new_constant(graph, f"{name}.weight_{index}", each) if isinstance(each, np.ndarray) else each.value
            for index, each in enumerate(self.inputs)
        ]
        outputs = len(last.outputs)
        node = ir.Node(
            self.domain, self.operator, inputs, first.attributes.values(), name=first.name, num_outputs=outputs
        )
        made = [node]
        bias = self.bias.value if self.bias is not None else None
        if bias is not None:
            node.outputs[0].name = f"{name}.product"
            node.outputs[0].type = last.outputs[0].type
            made.append(ir.node("Add", [node.outputs[0], bias], name=f"{name}.add"))
        for old, new in zip(last.outputs, made[-1].outputs, strict=True):
            new.type, new.shape = old.type, old.shape
        ir.convenience.replace_nodes_and_values(graph, last, [last], made, last.outputs, made[-1].outputs)


@dataclass(frozen=True, eq=False)
class _LookUp:
    """``DequantizeLinear(moves(Gather(integers, ids)))``, which is ``moves(Gather(table, ids))``.

    An integer product may read the moved integers too.

    Attributes:
        nodes: the Gather, then what moves its elements and dequantizes them.
        table: float32.
        scale: the one that is in the table; one number.
    """

    nodes: Sequence[ir.Node]
    table: np.ndarray
    scale: np.ndarray

    def replace(self) -> None:
        gather = self.nodes[0]
        graph = gather.graph
        assert isinstance(graph, ir.Graph)
        gather.replace_input_with(0, new_constant(graph, f"{gather.name}.table", self.table))
        for node in self.nodes:
            output = node.outputs[0]
            output.type = ir.TensorType(ir.DataType.FLOAT)
            if node.op_type == "DequantizeLinear":
                copy = ir.node("Identity", [node.inputs[0]], name=node.name)
                copy.outputs[0].type, copy.outputs[0].shape = output.type, output.shape
                ir.convenience.replace_nodes_and_values(graph, node, [node], [copy], [output], copy.outputs)


def _float_form(node: ir.Node) -> _FloatLayer | _LookUp | None:
    """Returns what a quantized node becomes; None if it is not quantized, or not in a form that is known."""
    match node.op_type:
        case "MatMulInteger" | "ConvInteger":
            return _of_product(node)
        case "MatMulIntegerToFloat":
            return _of_scaled_product(node)
        case "DynamicQuantizeMatMul":
            return _of_matmul(node)
        case "DynamicQuantizeLSTM":
            return _of_lstm(node)
        case "QAttention":
            return _of_attention(node)
        case "Gather":
            return _of_look_up(node)
    return None


def _of_product(node: ir.Node) -> _FloatLayer | None:
    """``Mul(Cast(MatMulInteger(integers, weight)), scale of integers * scale of weight)``.

    The second factor may be quantized in each run too, as in the products of an attention.
    """
    cast = _sole_reader(node.outputs[0], "Cast")
    scaled = _sole_reader(cast.outputs[0], "Mul") if cast is not None else None
    if cast is None or scaled is None:
        return None
    scale, axis = _other(scaled, cast.outputs[0]), 0 if node.op_type == "ConvInteger" else -1
    quantizer, look_up = _quantizer(node, 0, 2), _look_up_behind(node)
    if quantizer is not None:
        scales = _producer(scale, "Mul")
        if scales is None or quantizer.outputs[1] not in scales.inputs or len(scale.uses()) != 1:
            return None
        second = _quantizer(node, 1, 3)
        if second is not None and _other(scales, quantizer.outputs[1]) is second.outputs[1]:
            factors = (_InputOf(quantizer, 0), _InputOf(second, 0))
            return _FloatLayer((node, cast, scales, scaled), _PRODUCTS[node.op_type], factors)
        weight = _weight(input_of(node, 1), _array(_other(scales, quantizer.outputs[1])), input_of(node, 3), axis)
    elif look_up is not None:
        both = _constant_product(scale)
        weight = _weight(input_of(node, 1), both / look_up.scale if both is not None else None, input_of(node, 3), axis)
    else:
        return None
    if weight is None:
        return None
    source = _InputOf(quantizer or node, 0)
    nodes = (node, cast, *filter(None, [scale.producer()]), scaled)
    return _FloatLayer(nodes, _PRODUCTS[node.op_type], (source, weight))


def _of_attention(node: ir.Node) -> _FloatLayer | None:
    """The product that computes queries, keys and values is quantized; it becomes that of ``Attention``."""
    quantizer = _quantizer(node, 0, 6)
    weight = _weight(input_of(node, 1), _array(input_of(node, 4)), input_of(node, 7), -1)
    if quantizer is None or input_of(node, 3) is not quantizer.outputs[1] or weight is None:
        return None
    others = [_InputOf(node, index) for index in (2, 5, 8)]
    return _FloatLayer((node,), "Attention", (_InputOf(quantizer, 0), weight, *others), domain=node.domain)


def _of_scaled_product(node: ir.Node) -> _FloatLayer | None:
    quantizer = _quantizer(node, 0, 4)
    weight = _weight(input_of(node, 1), _array(input_of(node, 3)), input_of(node, 5), -1)
    if quantizer is None or input_of(node, 2) is not quantizer.outputs[1] or weight is None:
        return None
    return _FloatLayer((node,), "MatMul", (_InputOf(quantizer, 0), weight), bias=_InputOf(node, 6))


def _of_matmul(node: ir.Node) -> _FloatLayer | None:
    weight = _weight(input_of(node, 1), _array(input_of(node, 2)), input_of(node, 3), -1)
    if weight is None:
        return None
    return _FloatLayer((node,), "MatMul", (_InputOf(node, 0), weight), bias=_InputOf(node, 4))


def _of_lstm(node: ir.Node) -> _FloatLayer | None:
    """Its weights are ``(directions, inputs, 4 * hidden)``, those of LSTM are transposed."""
    weights = []
    for index, scale, zero in ((1, 8, 9), (2, 10, 11)):
        array, scales, zeros = (_array(input_of(node, each)) for each in (index, scale, zero))
        if array is None or scales is None or zeros is None:
            return None
        by_direction = (len(array), 1, -1)
        levels = array.astype(np.float64) - zeros.reshape(by_direction)
        weights.append((levels * scales.reshape(by_direction)).swapaxes(1, 2).astype(np.float32))
    others = [_InputOf(node, index) for index in range(3, 8)]
    return _FloatLayer((node,), "LSTM", (_InputOf(node, 0), *weights, *others))


def _of_look_up(gather: ir.Node) -> _LookUp | None:
    """All rows have one scale; what reads them dequantizes or multiplies them, at once or behind moves."""
    nodes, dequantizers, zeros = [gather], [], []
    for node in nodes:
        for reader, position in node.outputs[0].uses():
            if position != 0 or node.outputs[0].is_graph_output():
                return None
            if reader.op_type in _MOVES:
                nodes.append(reader)
            elif reader.op_type in _PRODUCTS or reader.op_type == "DequantizeLinear":
                zeros.append(input_of(reader, 2))
                dequantizers += [reader] if reader.op_type == "DequantizeLinear" else []
            else:
                return None
    scales = {input_of(node, 1) for node in dequantizers}
    scale = _array(scales.pop()) if scales else np.ones(())  # that of a product is one with that of its weights
    if not zeros or scales or any(each is not zeros[0] for each in zeros):
        return None
    table = _weight(gather.inputs[0], scale, zeros[0], None)
    return _LookUp([*nodes, *dequantizers], table, scale) if table is not None and scale is not None else None


def _look_up_behind(node: ir.Node) -> _LookUp | None:
    """Returns the look-up whose integers a product multiplies."""
    before = _producer(input_of(node, 0))
    while before is not None and before.op_type in _MOVES:
        before = _producer(before.inputs[0])
    return _of_look_up(before) if before is not None and before.op_type == "Gather" else None


def _constant_product(value: ir.Value) -> np.ndarray | None:
    """Returns a constant, or the product of two."""
    node = _producer(value, "Mul")
    factors = [_array(each) for each in (node.inputs if node is not None else [value])]
    found = [each for each in factors if each is not None]
    return math.prod(found, start=np.ones(())) if len(found) == len(factors) else None


def _weight(
    levels: ir.Value | None, scale: np.ndarray | None, zero: ir.Value | None, axis: int | None
) -> np.ndarray | None:
    """Returns ``(levels - zero) * scale``, float32; None if a part is no constant, or not one number per ``axis``."""
    weight, offset = _array(levels), np.zeros(()) if zero is None else _array(zero)
    if weight is None or scale is None or offset is None:
        return None
    sizes = [1] * weight.ndim
    if axis is not None:
        sizes[axis] = weight.shape[axis]
    if any(each.size not in (1, np.prod(sizes)) for each in (scale, offset)):
        return None
    factor, offset = (each.astype(np.float64).reshape(sizes if each.size > 1 else ()) for each in (scale, offset))
    return np.asarray((weight.astype(np.float64) - offset) * factor, np.float32)


def _quantizer(node: ir.Node, value: int, zero: int) -> ir.Node | None:
    """Returns the DynamicQuantizeLinear whose integers and zero point a node reads."""
    quantizer = _producer(input_of(node, value), "DynamicQuantizeLinear")
    if quantizer is None or (input_of(node, value), input_of(node, zero)) != (
        quantizer.outputs[0],
        quantizer.outputs[2],
    ):
        return None
    return quantizer


def _is_constant(node: ir.Node) -> bool:
    return node.op_type == "DequantizeLinear" and all(_array(value) is not None for value in node.inputs)


def _producer(value: ir.Value | None, operator: str = "") -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and operator in ("", node.op_type) else None


def _sole_reader(value: ir.Value, operator: str) -> ir.Node | None:
    readers = [use.node for use in value.uses()]
    if len(readers) != 1 or value.is_graph_output() or readers[0].op_type != operator:
        return None
    return readers[0]


def _other(node: ir.Node, value: ir.Value) -> ir.Value:
    """Returns the other one of two inputs."""
    first, second = _given(node)
    return second if first is value else first


def _given(node: ir.Node) -> Iterator[ir.Value]:
    return (value for value in node.inputs if value is not None)


def _array(value: ir.Value | None) -> np.ndarray | None:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else np.asarray(tensor.numpy())
