"""Upgrades older graphs to opset 20 with ONNX's version converter."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from edgekit.errors import GraphError
from edgekit.graph.external_weights import INLINE_BYTES
from edgekit.graph.passes.infer_shapes import InferShapes

__all__ = ["OPSET", "upgrade_opset"]

OPSET = 20
"""Opset that EdgeKit exports to, and that older graphs are upgraded to."""

_ONE_WAY_BROADCAST = 7
"""Since this opset a PRelu's slope is aligned with the last axis of its input; before, with the channels."""


def upgrade_opset(graph: ir.Model, name: str) -> ir.Model:
    """Converts the graph to opset 20.

    Large weights bypass the converter, which saves memory and allows graphs over 2 GB.

    Args:
        graph: a graph in an older opset, without initializers among its inputs.
        name: name for messages.

    Raises:
        GraphError: ONNX's converter failed; gives the reason.
    """
    before = graph.opset_imports.get("", 1)
    if before < _ONE_WAY_BROADCAST:
        _align_slopes(graph)
    removed = {
        key: value.const_value
        for key, value in graph.graph.initializers.items()
        if value.const_value is not None and value.const_value.nbytes > INLINE_BYTES
    }
    for key, tensor in removed.items():
        value = graph.graph.initializers.pop(key)
        value.shape, value.dtype, value.const_value = ir.Shape(tensor.shape.numpy()), tensor.dtype, None
        graph.graph.inputs.append(value)
    # Before IR version 4 a weight had to be an input too, and the converter follows the graph's IR version.
    graph.ir_version = max(graph.ir_version, 8)
    try:
        upgraded = ir.from_proto(onnx.version_converter.convert_version(ir.to_proto(graph), OPSET))
    except Exception as e:
        reason = str(e).strip().splitlines()
        raise GraphError(
            f"{name}: opset {before} cannot be upgraded to {OPSET}: {reason[-1] if reason else type(e).__name__}",
            hint="export the model again with opset 20",
        ) from e
    # One by one: values removed as a slice stay marked as inputs (onnx-ir 1.1.0).
    weights = [upgraded.graph.inputs.pop() for _ in removed]
    for value in reversed(weights):
        value.const_value = removed[value.name or ""]
        upgraded.graph.register_initializer(value)
    return upgraded


def _align_slopes(graph: ir.Model) -> None:
    """Reshapes per-channel PRelu slopes as opset 7 requires; ONNX's converter does not do it."""
    InferShapes()(graph)
    for node in graph.graph.all_nodes():
        value = node.inputs[1] if node.op_type == "PRelu" else None
        slope = value.const_value if value is not None else None
        shape = node.inputs[0].shape if node.inputs and node.inputs[0] is not None else None
        if value is None or slope is None or shape is None or len(slope.shape) != 1 or len(shape) < 3:
            continue
        aligned = slope.numpy().reshape((-1,) + (1,) * (len(shape) - 2))
        value.const_value, value.shape = ir.tensor(aligned, name=value.name), ir.Shape(aligned.shape)
