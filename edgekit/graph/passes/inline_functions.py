"""Inlines the functions of a graph, of any opset."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, RemoveUnusedFunctionsPass

from edgekit.errors import GraphError
from edgekit.graph.load.upgrade_nodes import OPSET, upgrade_nodes
from edgekit.graph.load.walk import opset_of

__all__ = ["has_functions_of_another_opset", "inlined"]


def has_functions_of_another_opset(model: onnx.ModelProto) -> bool:
    """Whether a function imports another opset of ONNX than the graph."""
    return any(opset_of(function.opset_import) not in (0, opset_of(model.opset_import)) for function in model.functions)


def inlined(graph: ir.Model) -> ir.Model:
    """Returns the graph with all calls of its functions inlined.

    If a function has another opset than the graph, the nodes of each are upgraded from their own opset to opset 20, and
    the graph gets the newest opset of all. ONNX does not allow such functions if an operator in them has changed
    between the two, and ONNX Runtime takes their nodes for those of the graph's opset; exporters write them all the
    same, and mean what the function declares.

    Args:
        graph: the graph; it is changed.

    Raises:
        GraphError: a function calls itself, or a node cannot be upgraded.
    """
    RemoveUnusedFunctionsPass()(graph)  # type: ignore[no-untyped-call]
    if not graph.functions:
        return graph
    mixed = _with_own_versions(graph)
    try:
        InlinePass()(graph)
    except (ir.passes.PassError, ir.passes.InvariantError, RuntimeError, ValueError) as e:
        reason = next(iter(str(e.__cause__ or e).strip().splitlines()), type(e).__name__)
        if "outer-scope value" in reason:  # onnx_ir's words are about its own arguments
            reason = "one of them reads a value that it does not compute"
        raise GraphError(
            f"graph '{graph.graph.name}': its functions cannot be inlined: {reason}",
            hint="export the model with functions of its own opset, or without functions",
        ) from e
    RemoveUnusedFunctionsPass()(graph)  # type: ignore[no-untyped-call]
    if mixed:
        upgrade_nodes(graph, f"graph '{graph.graph.name}'")
    return graph


def _with_own_versions(graph: ir.Model) -> bool:
    """Writes its opset on each node, and the newest of all on the graph and its functions, if they differ."""
    parts = [
        (graph.graph, graph.opset_imports),
        *((each.graph, each.opset_imports) for each in graph.functions.values()),
    ]
    for _, imports in parts:
        alias = imports.pop("ai.onnx", None)
        if alias is not None:
            imports.setdefault("", alias)
    if len({imports[""] for _, imports in parts if "" in imports}) < 2:
        return False
    newest: dict[str, int] = {"": OPSET}
    for part, imports in parts:
        for node in part.all_nodes():
            node.version = imports.get(node.domain)
        for domain, version in imports.items():
            newest[domain] = max(version, newest.get(domain, 0))
    for _, imports in parts:
        imports.update({domain: newest[domain] for domain in imports})
    graph.opset_imports[""] = newest[""]
    return True
