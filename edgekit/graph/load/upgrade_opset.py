"""An old graph becomes one of opset 20, by ONNX's own version converter."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from edgekit.errors import GraphError
from edgekit.graph.external_weights import INLINE_BYTES
from edgekit.graph.passes.infer_shapes import InferShapes

__all__ = ["OPSET", "upgrade_opset"]

OPSET = 20
"""What EdgeKit exports to, and what older graphs are lifted to."""

_ONE_WAY_BROADCAST = 7
"""Since this opset a PRelu's slope is aligned with the last axis of its input, before with the channels."""


def upgrade_opset(graph: ir.Model, name: str) -> ir.Model:
    """The graph in opset 20.

    Large weights do not go through the converter, so that it takes no memory for them and graphs over 2 GB
    pass.

    Args:
        graph: in an older opset; its initializers are no inputs.
        name: for messages.

    Raises:
        GraphError: ONNX's converter cannot; says why.
    """
    before = graph.opset_imports.get("", 1)
    if before < _ONE_WAY_BROADCAST:
        _align_slopes(graph)
    held = {
        key: value.const_value
        for key, value in graph.graph.initializers.items()
        if value.const_value is not None and value.const_value.nbytes > INLINE_BYTES
    }
    for key, tensor in held.items():
        value = graph.graph.initializers.pop(key)
        value.shape, value.dtype, value.const_value = ir.Shape(tensor.shape.numpy()), tensor.dtype, None
        graph.graph.inputs.append(value)
    # Before version 4 of the format a weight had to be an input too; the converter keeps to the version it sees.
    graph.ir_version = max(graph.ir_version, 8)
    try:
        lifted = ir.from_proto(onnx.version_converter.convert_version(ir.to_proto(graph), OPSET))
    except Exception as e:
        reason = str(e).strip().splitlines()
        raise GraphError(
            f"{name}: opset {before} cannot be lifted to {OPSET}: {reason[-1] if reason else type(e).__name__}",
            hint="export the model again with opset 20",
        ) from e
    # One by one: values that leave in a slice still say that they are inputs (onnx-ir 1.1.0).
    weights = [lifted.graph.inputs.pop() for _ in held]
    for value in reversed(weights):
        value.const_value = held[value.name or ""]
        lifted.graph.register_initializer(value)
    return lifted


def _align_slopes(graph: ir.Model) -> None:
    """Gives slopes of PRelu, one a channel, the shape they need since opset 7; ONNX's converter forgets it."""
    InferShapes()(graph)
    for node in graph.graph.all_nodes():
        value = node.inputs[1] if node.op_type == "PRelu" else None
        slope = value.const_value if value is not None else None
        shape = node.inputs[0].shape if node.inputs and node.inputs[0] is not None else None
        if value is None or slope is None or shape is None or len(slope.shape) != 1 or len(shape) < 3:
            continue
        aligned = slope.numpy().reshape((-1,) + (1,) * (len(shape) - 2))
        value.const_value, value.shape = ir.tensor(aligned, name=value.name), ir.Shape(aligned.shape)
