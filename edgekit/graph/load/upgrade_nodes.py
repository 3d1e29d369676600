"""Upgrades single nodes to opset 20."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from edgekit.errors import GraphError
from edgekit.graph.load.opset_changes import CHANGES, Names, Rewriter

__all__ = ["OLDEST", "OPSET", "upgrade_node", "upgrade_nodes"]

OPSET = 20
"""Opset that EdgeKit exports to, and that older graphs are upgraded to."""

OLDEST = 7
"""The oldest opset that ONNX Runtime supports; ONNX's version converter upgrades to it. Since this opset, operators
broadcast as numpy does, and a PRelu's slope is aligned with the last axis of its input; before, with the channels."""


def upgrade_nodes(graph: ir.Model, name: str) -> None:
    """Upgrades each node of a graph from the opset that is written on it (`ir.Node.version`), in place.

    Args:
        graph: a graph of opset 20 or newer with nodes of other opsets, whose shapes cannot be inferred yet.
        name: name for messages.

    Raises:
        GraphError: a node cannot be upgraded; gives the node and the reason.
    """
    names = Names(graph.graph)
    for node in list(graph.graph.all_nodes()):
        opset = node.version
        if opset is None or node.domain not in ("", "ai.onnx"):
            continue
        if opset < OLDEST and _has_changed(node.op_type, opset):
            where = f"node '{node.name or node.outputs[0].name}'"
            raise GraphError(
                f"{name}: {where}: {node.op_type} of opset {opset} cannot be upgraded",
                hint=f"export the model with opset {OLDEST} or newer in all functions, or without functions",
            )
        try:
            upgrade_node(node, opset, names)
        except GraphError as e:
            raise GraphError(f"{name}: opset {opset} cannot be upgraded to {OPSET}: {e.message}", hint=e.hint) from e
        node.version = None


def _has_changed(operator: str, opset: int) -> bool:
    """Whether an operator has another definition in opset 7 than in an older one; False if it is in neither."""
    try:
        before, after = (onnx.defs.get_schema(operator, version).since_version for version in (opset, OLDEST))
    except onnx.defs.SchemaError:
        return False
    return bool(before != after)


def upgrade_node(node: ir.Node, opset: int, names: Names) -> None:
    """Rewrites a node of an older opset as that of opset 20; names of new values are unique among ``names``."""
    since, rewrite = CHANGES.get(node.op_type, (0, None)) if node.domain == "" else (0, None)
    if rewrite is not None and opset < since:
        rewrite(Rewriter(node, opset, names))
