"""Checks how many inputs and outputs the nodes of an ONNX file have, before anything reads them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx

from edgekit.errors import GraphError
from edgekit.graph.load.walk import graphs_in, opset_of

__all__ = ["expected_count", "require_argument_counts"]

_ONNX = ("", "ai.onnx")


def require_argument_counts(model: onnx.ModelProto, path: Path) -> None:
    """Checks the nodes of ONNX's own operators against the operators of their opset.

    ONNX's checker does so too, but refuses functions of another opset than the graph's, which are inlined before it.
    Operators that the installed ONNX does not have are left to it.

    Raises:
        GraphError: a node has too few or too many inputs or outputs; names it.
    """
    newest = onnx.defs.onnx_opset_version()  # where none is given
    _require_of(model.graph.node, opset_of(model.opset_import) or newest, path)
    for function in model.functions:
        _require_of(function.node, opset_of(function.opset_import) or newest, path)


def _require_of(nodes: Iterable[onnx.NodeProto], opset: int, path: Path) -> None:
    for node in nodes:
        if node.domain in _ONNX:
            _require_counts(node, opset, path)
        for body in graphs_in(node):
            _require_of(body.node, opset, path)


def _require_counts(node: onnx.NodeProto, opset: int, path: Path) -> None:
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return
    counts = (
        ("inputs", len(node.input), schema.min_input, schema.max_input),
        ("outputs", len(node.output), schema.min_output, schema.max_output),
    )
    for kind, got, least, most in counts:
        if wanted := expected_count(got, least, most):
            raise GraphError(
                f"{path}: node '{node.name or next(iter(node.output), '')}': {node.op_type} of opset {opset}: expected "
                f"{wanted} {kind if wanted != '1' else kind[:-1]}, got {got}"
            )


def expected_count(got: int, least: int, most: int) -> str:
    """Returns how many inputs or outputs an operator has, for a message; empty if ``got`` is as many."""
    if least <= got <= most:
        return ""
    return str(least) if least == most else f"{least} to {most}" if most < least + 100 else f"{least} or more"
