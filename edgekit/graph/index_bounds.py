"""Finds inputs that select rows of a table, such as token ids, and how many rows there are."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.graph.shape_values import number_of

__all__ = ["index_bounds"]

_INDEX = {"Gather": (0, 1, 0), "GatherElements": (0, 1, 0), "ScatterElements": (0, 1, 0)}
"""Position of the table, position of the indices, and default of ``axis``."""
_KEEPS = {
    "Cast": (0,),
    "Clip": (0,),
    "Concat": None,
    "Expand": (0,),
    "Flatten": (0,),
    "Gather": (0,),
    "Identity": (0,),
    "Max": None,
    "Min": None,
    "Reshape": (0,),
    "Slice": (0,),
    "Split": (0,),
    "Squeeze": (0,),
    "Tile": (0,),
    "Transpose": (0,),
    "Unsqueeze": (0,),
    "Where": (1, 2),
}
"""Operators whose outputs have elements of these inputs; None for all inputs."""


def index_bounds(graph: ir.Model) -> dict[str, int]:
    """Returns the number of rows that an input selects from, by input name: its values are less than that.

    The tables of token ids have a row for each token. Where an input selects from several tables, the smallest counts.
    Inputs whose values select nothing, or from an axis whose size is not known, are left out. Keras exports ids as
    floats, which a Cast makes integers: an input of floats has a bound if nothing else reads it.

    Args:
        graph: a graph whose values have their shapes.
    """
    found: dict[str, int] = {}
    for value in graph.graph.inputs:
        bound = _bound(value)
        if value.name and bound:
            found[value.name] = bound
    return found


def _bound(start: ir.Value) -> int | None:
    """Returns the size of the smallest axis that the elements of a value select from; None if there is none."""
    bounds: list[int] = []
    seen, waiting = {start}, [start]
    while waiting:
        value = waiting.pop()
        for node, position in value.uses():
            rows = _rows(node, position, value)
            if rows is not None:
                bounds.append(rows)
            elif _keeps(node, position):
                waiting += [output for output in node.outputs if output not in seen]
                seen.update(node.outputs)
            elif value.dtype is not None and value.dtype.is_floating_point():
                return None
    return min(bounds, default=None)


def _keeps(node: ir.Node, position: int) -> bool:
    """Returns whether the outputs of a node have the elements of the input at this position."""
    if node.domain != "" or node.op_type not in _KEEPS:
        return False
    kept = _KEEPS[node.op_type]
    return kept is None or position in kept


def _rows(node: ir.Node, position: int, indices: ir.Value) -> int | None:
    """Returns how many rows an operator has for the indices that it reads at this position; None if it has none."""
    if node.domain != "" or indices.dtype is None or not indices.dtype.is_integer():
        return None
    if node.op_type == "OneHot" and position == 0:
        depth = number_of(node.inputs[1])
        return int(depth) if depth is not None else None
    table_at, indices_at, axis = _INDEX.get(node.op_type, (0, -1, 0))
    table = node.inputs[table_at]
    if position != indices_at or table is None or table.shape is None:
        return None
    size = table.shape[node.attributes.get_int("axis", axis)]
    return size if isinstance(size, int) else None
