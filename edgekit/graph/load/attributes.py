"""Attributes whose value onnx's checker lets pass, and which crash or never leave its shape inference."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import onnx

from edgekit.errors import GraphError
from edgekit.graph.file import MAX_RANK

__all__ = ["require_possible_attributes"]

_AXIS = frozenset({"axis", "axes"})
_COUNT = "batch_dims"
"""Of ``GatherND``: the number of its first axes that are batches."""
_EQUATION = re.compile(rb"(?:[A-Za-z, ]|->|\.\.\.)*")


def require_possible_attributes(nodes: Iterable[onnx.NodeProto], path: Path) -> None:
    """Checks that no axis is beyond all ranks, and that the equation of an Einsum has no other characters than these.

    Raises:
        GraphError: a node of ONNX has such an axis, a negative number of them, or such an equation; names it.
    """
    for node in nodes:
        if node.domain not in ("", "ai.onnx"):
            continue
        what = f"{path}: {node.op_type} '{node.name or next(iter(node.output), '')}'"
        for attribute in node.attribute:
            if attribute.name in _AXIS or attribute.name == _COUNT:
                _require_axes(what, attribute)
            elif attribute.name == "equation" and not _EQUATION.fullmatch(attribute.s):
                raise GraphError(f"{what}: expected an equation of letters, as in 'ij,jk->ik', got {attribute.s!r}")


def _require_axes(what: str, attribute: onnx.AttributeProto) -> None:
    least = 0 if attribute.name == _COUNT else -MAX_RANK
    for axis in (attribute.i, *attribute.ints):
        if not least <= axis <= MAX_RANK:
            raise GraphError(f"{what}: expected '{attribute.name}' from {least} to {MAX_RANK}, got {axis}")
