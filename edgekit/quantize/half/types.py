"""The half-precision types FP16 and BF16, and the inputs and outputs of ONNX operators that may have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir

from edgekit.specs import Precision

__all__ = ["HALF", "HalfPlaces", "HalfType", "half_places", "is_float"]


@dataclass(frozen=True)
class HalfType:
    """A 16-bit floating-point type.

    Attributes:
        dtype: ONNX type.
        numpy: numpy type.
        largest: largest finite number.
        smallest_normal: smallest positive normal number, which has full precision.
        step: distance from 1 to the next number.
    """

    dtype: ir.DataType
    numpy: np.dtype
    largest: float
    smallest_normal: float
    step: float


HALF = {
    Precision.FP16: HalfType(ir.DataType.FLOAT16, np.dtype(np.float16), 65504.0, 2.0**-14, 2.0**-10),
    Precision.BF16: HalfType(
        ir.DataType.BFLOAT16, np.dtype(ml_dtypes.bfloat16), float.fromhex("0x1.fep127"), 2.0**-126, 2.0**-7
    ),
}


@dataclass(frozen=True)
class HalfPlaces:
    """Indices of the float32 inputs and outputs of a node that become half precision together.

    Attributes:
        inputs: inputs that may be half precision.
        outputs: outputs that are half precision then.
        of_any_type: the node has one float input and no float output, and takes either type.
    """

    inputs: frozenset[int]
    outputs: frozenset[int]
    of_any_type: bool = False


def is_float(value: ir.Value | None) -> bool:
    """Whether ``value`` is a float32 tensor."""
    return value is not None and isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.FLOAT


def half_places(node: ir.Node, opset: int, half: HalfType) -> HalfPlaces | str:
    """Returns where ``node`` may be half precision by ONNX's operator schema, or the reason why nowhere.

    Args:
        node: its values have the types of the float graph.
        opset: the graph's opset.
        half: the half-precision type.
    """
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "" if node.domain == "ai.onnx" else node.domain)
    except onnx.defs.SchemaError:
        return "it is not an ONNX operator"
    if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
        return "it has subgraphs"
    if any(_is_strange(value) for value in (*node.inputs, *node.outputs)):
        return "it has an input or output that is not a tensor of a known type"
    kind = f"tensor({half.dtype.name.lower()})"
    takes = {c.type_param_str for c in schema.type_constraints if kind in c.allowed_type_strs}
    inputs = {i: _variable(schema.inputs, i) for i, value in enumerate(node.inputs) if is_float(value)}
    outputs = {i: _variable(schema.outputs, i) for i, value in enumerate(node.outputs) if is_float(value)}
    if node.op_type == "DequantizeLinear" and not node.attributes.get_int("output_dtype", 0):
        # Since opset 23 the output's type is a variable of its own, and still that of the scale by default.
        outputs = dict.fromkeys(outputs, _variable(schema.inputs, 1))
    bound = takes.intersection(inputs.values())
    if inputs and not bound:
        return f"ONNX does not support {half.dtype.name} for it"
    if inputs and not bound.issuperset(outputs.values()) and node.op_type != "Cast":
        return "its type is set by an attribute"
    return HalfPlaces(
        frozenset(i for i, variable in inputs.items() if variable in bound),
        frozenset(i for i, variable in outputs.items() if variable in bound),
        of_any_type=len(inputs) == 1 and not outputs,
    )


def _variable(parameters: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> str:
    return str(parameters[min(index, len(parameters) - 1)].type_str)


def _is_strange(value: ir.Value | None) -> bool:
    return value is not None and bool(value.name) and not isinstance(value.type, ir.TensorType)
