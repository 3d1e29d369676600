"""Checks how many inputs and outputs the nodes of an ONNX file have, before anything reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx

from edgekit.errors import GraphError
from edgekit.graph.load.walk import graphs_in

__all__ = ["require_argument_counts"]

_ONNX = ("", "ai.onnx")


def require_argument_counts(model: onnx.ModelProto, path: Path) -> None:
    """Checks the nodes of ONNX's own operators against the operators of their opset.

    ONNX's checker does so too, but refuses functions of another opset than the graph's, which are inlined before it.
    Operators that the installed ONNX does not have are left to it.

    Raises:
        GraphError: a node has too few or too many inputs or outputs; names it.
    """
    _require_of(model.graph.node, _opset(model.opset_import), path)
    for function in model.functions:
        _require_of(function.node, _opset(function.opset_import), path)


def _opset(imports: Iterable[onnx.OperatorSetIdProto]) -> int:
    """Returns the version of ONNX's own operators; the newest if it is not given."""
    versions: Mapping[str, int] = {each.domain: each.version for each in imports}
    return max(versions.get(domain, 0) for domain in _ONNX) or onnx.defs.onnx_opset_version()


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
        if not least <= got <= most:
            wanted = f"{least} or more" if most > least + 100 else str(least) if least == most else f"{least} to {most}"
            raise GraphError(
                f"{path}: node '{node.name or next(iter(node.output), '')}': {node.op_type} of opset {opset}: expected "
                f"{wanted} {kind if wanted != '1' else kind[:-1]}, got {got}"
            )
