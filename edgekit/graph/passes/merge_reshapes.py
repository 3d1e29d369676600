"""Merges operators that only change the shape and follow each other."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph.layer_weights import constant_array

__all__ = ["MergeReshapes"]

_RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})


class MergeReshapes(ir.passes.InPlacePass):
    """Lets a Reshape, Flatten, Squeeze or Unsqueeze behind another read the input of the first.

    Preconditions: shapes have been inferred (`InferShapes`); Constant nodes have been converted (`FoldConstants`).
    Postconditions: no such node with a fixed output shape, and no Reshape to constant sizes, reads the output of
        another; it became a Reshape if it was none. What nothing reads any more is left to `RemoveDead`.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph.all_nodes()):
            if node.domain == "" and node.op_type in _RESHAPES:
                source = _source_of(node)
                modified = (source is not None and _reads_directly(node, source)) or modified
        return ir.passes.PassResult(model, modified=modified)


def _source_of(node: ir.Node) -> ir.Value | None:
    """Returns the value before the node before ``node``, if that only changes the shape too."""
    value = node.inputs[0]
    before = value.producer() if value is not None else None
    if before is None or before.domain != "" or before.op_type not in _RESHAPES or before.graph is not node.graph:
        return None
    return before.inputs[0]


def _reads_directly(node: ir.Node, source: ir.Value) -> bool:
    sizes = constant_array(node.inputs[1]) if node.op_type == "Reshape" else None
    # A size of 0 is that of the input, which is another now.
    if sizes is not None and (sizes != 0).all():
        node.replace_input_with(0, source)
        return True
    result, graph = node.outputs[0], node.graph
    shape = list(result.shape) if result.shape is not None else ["?"]
    fixed = [size for size in shape if isinstance(size, int) and size > 0]
    if len(fixed) != len(shape) or not isinstance(graph, ir.Graph):
        return False
    name = f"{result.name}.shape"
    while name in graph.initializers:
        name += "_merged"
    tensor = ir.tensor(np.asarray(fixed, np.int64), name=name)
    target = ir.Value(name=name, shape=ir.Shape([len(fixed)]), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(target)
    merged = ir.node("Reshape", [source, target], name=node.name)
    merged.outputs[0].type, merged.outputs[0].shape = result.type, result.shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], [merged], [result], [merged.outputs[0]])
    return True
