"""Moves floats in place of quantized numbers, for TensorRT, which pads no integers and selects no rows of them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import initializer, new_node, replace_node, stored_constant

__all__ = ["FloatMoves"]


class FloatMoves(ir.passes.InPlacePass):
    """Replaces a ``Pad`` of integers, and a ``Gather`` from constant ones, by the same on floats, quantized again.

    Files of ONNX Runtime's static quantizer have them. TensorRT takes constants of ``int8`` before a DequantizeLinear
    only.

    Preconditions: the opset is 13 or newer; values have their types. Scales and zero points are initializers.
    Postconditions: neither is left, if all that reads the result dequantizes it with one scale, and the number that
        pads is constant. Results are the same integers.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [node for node in model.graph.all_nodes() if node.op_type in ("Gather", "Pad")]
        return ir.passes.PassResult(model, modified=any([_on_floats(node) for node in nodes]))


def _on_floats(node: ir.Node) -> bool:
    """Replaces the node by DequantizeLinear, the node on floats, and QuantizeLinear; returns whether it did."""
    data, result, graph = node.inputs[0], node.outputs[0], node.graph
    scale, zero = _dequantized_with(result)
    inputs = list(node.inputs[1:])
    if data is None or data.dtype is not ir.DataType.INT8 or scale is None or not isinstance(graph, ir.Graph):
        return False
    if node.op_type == "Gather" and data.const_value is None:
        return False
    name = result.name or ""
    if node.op_type == "Pad" and len(inputs) > 1 and inputs[1] is not None:
        fill = _floats_of(inputs[1], scale, zero)
        if fill is None:
            return False
        inputs[1] = initializer(graph, f"{name}.fill", fill)
    parameters = [scale] if zero is None else [scale, zero]
    floats = new_node("DequantizeLinear", [data, *parameters], name=f"{name}.floats", output=f"{name}.floats")
    moved = new_node(
        node.op_type, [floats.outputs[0], *inputs], name=node.name or f"{name}.moved", output=f"{name}.moved"
    )
    moved.attributes.update(node.attributes)
    integers = new_node("QuantizeLinear", [moved.outputs[0], *parameters], name=f"{name}.integers")
    integers.outputs[0].type, integers.outputs[0].shape = result.type, result.shape
    replace_node(node, [floats, moved, integers])
    return True


def _dequantized_with(value: ir.Value) -> tuple[ir.Value | None, ir.Value | None]:
    """Returns the scale and the zero point with which all that reads a value dequantizes it; None if they differ."""
    readers = [use.node for use in value.uses()]
    found = {tuple(map(_number, node.inputs[1:3])): node for node in readers if node.op_type == "DequantizeLinear"}
    if value.is_graph_output() or len(found) != 1 or any(node.op_type != "DequantizeLinear" for node in readers):
        return None, None
    ((numbers, node),) = found.items()
    return (None, None) if None in numbers else (node.inputs[1], node.inputs[2] if len(numbers) > 1 else None)


def _number(value: ir.Value | None) -> float | None:
    """Returns the number of a constant of one element."""
    tensor = stored_constant(value)
    return float(tensor.numpy().reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None


def _floats_of(number: ir.Value, scale: ir.Value, zero: ir.Value | None) -> np.ndarray | None:
    """Returns the float that an integer stands for; None if it is not constant."""
    integer, factor, offset = (stored_constant(each) for each in (number, scale, zero))
    if integer is None or factor is None or (zero is not None and offset is None):
        return None
    steps = integer.numpy().astype(np.int32) - (0 if offset is None else offset.numpy().astype(np.int32))
    return np.asarray(steps * factor.numpy(), factor.numpy().dtype).reshape(())
