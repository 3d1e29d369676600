"""Upgrades older graphs to opset 20."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from edgekit.errors import GraphError
from edgekit.graph.external_weights import INLINE_BYTES
from edgekit.graph.load.opset_changes import Names
from edgekit.graph.load.upgrade_nodes import OLDEST, OPSET, upgrade_node
from edgekit.graph.passes.infer_shapes import InferShapes

__all__ = ["upgrade_opset"]


def upgrade_opset(graph: ir.Model, name: str) -> ir.Model:
    """Upgrades a graph to opset 20; newer opsets are kept.

    From opset 7 on, each operator whose meaning changed is rewritten (`edgekit.graph.load.opset_changes`), in subgraphs
    too. ONNX's version converter is not used for these: it changes what Resize, Upsample and Hardmax compute, and
    refuses subgraphs.

    Args:
        graph: a graph without functions, and without initializers among its inputs; may be changed in place.
        name: name for messages.

    Raises:
        GraphError: a node cannot be upgraded; gives the node and the reason.
    """
    _use_one_domain_name(graph)
    before = graph.opset_imports.get("", OPSET)
    if before >= OPSET:
        return graph
    # Before IR version 4 a weight had to be an input too, and the converter follows the graph's IR version.
    graph.ir_version = max(graph.ir_version, 8)
    if before < OLDEST:
        _align_slopes(graph)
        graph = _converted(graph, name)
    InferShapes()(graph)
    names, opset = Names(graph.graph), graph.opset_imports[""]
    try:
        for node in list(graph.graph.all_nodes()):
            upgrade_node(node, opset, names)
    except GraphError as e:
        raise GraphError(f"{name}: opset {before} cannot be upgraded to {OPSET}: {e.message}", hint=e.hint) from e
    for part in (graph.graph, *graph.graph.subgraphs()):
        part.opset_imports[""] = OPSET
    return graph


def _use_one_domain_name(graph: ir.Model) -> None:
    """Replaces the opset of the domain ``ai.onnx``, which is the same as the empty domain."""
    for part in (graph.graph, *graph.graph.subgraphs()):
        version = part.opset_imports.pop("ai.onnx", None)
        if version is not None:
            part.opset_imports.setdefault("", version)


def _converted(graph: ir.Model, name: str) -> ir.Model:
    """Converts a graph that is older than opset 7 to it.

    Large weights bypass the converter, which saves memory and allows graphs over 2 GB.
    """
    before = graph.opset_imports[""]
    removed = {
        key: value.const_value
        for key, value in graph.graph.initializers.items()
        if value.const_value is not None and value.const_value.nbytes > INLINE_BYTES
    }
    for key, tensor in removed.items():
        value = graph.graph.initializers.pop(key)
        value.shape, value.dtype, value.const_value = ir.Shape(tensor.shape.numpy()), tensor.dtype, None
        graph.graph.inputs.append(value)
    old = ir.to_proto(graph)
    try:
        new = onnx.version_converter.convert_version(old, OLDEST)
    except (onnx.version_converter.ConvertError, RuntimeError, ValueError, IndexError) as e:
        reason = str(e).strip().splitlines()
        raise GraphError(
            f"{name}: opset {before} cannot be upgraded to {OLDEST}: {reason[-1] if reason else type(e).__name__}",
            hint=f"export the model again with opset {OPSET}",
        ) from e
    upgraded = ir.from_proto(new)
    # One by one: values removed as a slice stay marked as inputs (onnx-ir 1.1.0).
    weights = [upgraded.graph.inputs.pop() for _ in removed]
    for value in reversed(weights):
        value.const_value = removed[value.name or ""]
        upgraded.graph.register_initializer(value)
    upgraded.metadata_props.update(graph.metadata_props)
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
