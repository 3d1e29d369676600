"""Attributes whose value onnx's checker lets pass, and which crash or never leave its shape inference."""

from __future__ import annotations

import re
from pathlib import Path

import onnx_ir as ir

from edgekit.errors import GraphError
from edgekit.graph.file import MAX_RANK

__all__ = ["require_possible_attributes"]

_AXIS = frozenset({"axis", "axes"})
_COUNT = "batch_dims"
"""Of ``GatherND``: the number of its first axes that are batches."""
_EQUATION = re.compile(r"(?:[A-Za-z, ]|->|\.\.\.)*")


def require_possible_attributes(graph: ir.Model, path: Path) -> None:
    """Checks that no axis is beyond all ranks, and that the equation of an Einsum has no other characters than these.

    Args:
        graph: a graph whose functions are inlined: a call may give their nodes attributes.
        path: the file, for messages.

    Raises:
        GraphError: a node of ONNX has such an axis, a negative number of them, or such an equation; names it.
    """
    for node in graph.graph.all_nodes():
        if node.domain not in ("", "ai.onnx"):
            continue
        what = f"{path}: {node.op_type} '{node.name or (node.outputs[0].name if node.outputs else '')}'"
        for name, attribute in node.attributes.items():
            if name in _AXIS or name == _COUNT:
                _require_axes(what, attribute)
            elif name == "equation" and not _EQUATION.fullmatch(str(attribute.value)):
                raise GraphError(f"{what}: expected an equation of letters, as in 'ij,jk->ik', got {attribute.value!r}")


def _require_axes(what: str, attribute: ir.Attr) -> None:
    least = 0 if attribute.name == _COUNT else -MAX_RANK
    for axis in (attribute.value,) if isinstance(attribute.value, int) else attribute.value or ():
        if not least <= axis <= MAX_RANK:
            raise GraphError(f"{what}: expected '{attribute.name}' from {least} to {MAX_RANK}, got {axis}")
