"""Converts bytes of an image to floats before they are moved, for TensorRT, which moves no unsigned bytes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgekit.lower.rewriting import new_node

__all__ = ["FloatBytes"]

_MOVES = frozenset(
    "DepthToSpace Expand Flatten Gather Identity Reshape Slice SpaceToDepth Split Squeeze Tile Transpose "
    "Unsqueeze".split()
)
"""Operators that place the elements of their first input elsewhere, and compute nothing."""
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


class FloatBytes(ir.passes.InPlacePass):
    """Inserts a ``Cast`` behind an input of unsigned bytes that are moved before they are converted to floats.

    Images come as ``(N, H, W, C)`` in bytes, and a model transposes them first. TensorRT takes such an input, but
    converts it before all else.

    Preconditions: values have their types.
    Postconditions: an input of ``uint8`` has one reader, a Cast, if all that is done with its bytes is to move and to
        convert them to floats of one type. The Casts behind stay: they convert this type to itself.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return ir.passes.PassResult(model, modified=any([_convert(model.graph, each) for each in model.graph.inputs]))


def _convert(graph: ir.Graph, image: ir.Value) -> bool:
    found = _moves_and_casts(image) if image.dtype is ir.DataType.UINT8 and not image.is_graph_output() else None
    if found is None:
        return False
    moves, casts = found
    types = {ir.DataType(node.attributes.get_int("to", 0)) for node in casts}
    if not moves or len(types) != 1 or not types <= _FLOATS:
        return False
    (dtype,) = types
    readers = list(image.uses())
    cast = new_node("Cast", [image], {"to": dtype.value}, name=f"{image.name}.float", output=f"{image.name}.float")
    cast.outputs[0].dtype, cast.outputs[0].shape = dtype, image.shape
    graph.insert_before(graph[0], cast)
    for node, index in readers:
        node.replace_input_with(index, cast.outputs[0])
    for node in moves:
        for output in node.outputs:
            output.type = ir.TensorType(dtype)  # a clone of the graph shares the type itself
    return True


def _moves_and_casts(value: ir.Value) -> tuple[Sequence[ir.Node], Sequence[ir.Node]] | None:
    """Returns what moves and what converts the bytes; None if something else reads them."""
    moves: list[ir.Node] = []
    casts: list[ir.Node] = []
    values = [value]
    while values:
        for node, index in values.pop().uses():
            if node.op_type == "Cast":
                casts.append(node)
            elif node.op_type in _MOVES and index == 0 and not any(each.is_graph_output() for each in node.outputs):
                moves.append(node)
                values += node.outputs
            else:
                return None
    return moves, casts
