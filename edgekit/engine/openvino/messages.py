"""Makes errors of OpenVINO's messages: they name the nodes of the graph, where OpenVINO names its own layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.arguments import argument
from edgekit.errors import BuildError, GraphError

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["compilation_error", "conversion_error", "words_of"]

NAMED_NODES = 3
_LAYER = re.compile(r"Cannot create (\w+) layer|node: opset\d+::(\w+)")
_TYPE = re.compile(r"does not support ([a-z]+\d+) ")
_TYPES = {"u": "UINT", "i": "INT", "f": "FLOAT", "bf": "BFLOAT"}
_THROWN = "CALLBACK HAS THROWN: "
"""What stands before the reason, behind a list of all inputs and outputs of a layer."""


def conversion_error(source: ir.Model, graph: Path, error: Exception) -> GraphError:
    """Returns the error about operators that OpenVINO lacks, which names their nodes, or any other of its reader."""
    lists = re.findall(r"(?:No conversion rule found for operations|Conversion is failed for): ([^\n]+)", str(error))
    missing = {re.sub(r"-\d+$", "", each.strip()) for each in ",".join(lists).split(",")}
    nodes = [
        _shown(node, operator)
        for node in source.graph.all_nodes()
        if (operator := f"{node.domain}.{node.op_type}".lstrip(".")) in missing
    ]
    named = f"it does not have, or not in this form, the operator of {_named(nodes)}"
    reason = named if nodes else words_of(error)
    hint = f"build it with {argument('target', 'cpu')}"
    return GraphError(f"OpenVINO cannot take {graph.name}: {reason}", hint=hint)


def words_of(error: Exception) -> str:
    """Returns OpenVINO's error message without the lines that name its source files."""
    lines = (line.strip() for line in str(error).splitlines())
    kept = [line for line in lines if line and not line.startswith(("Exception from src", "Check '"))]
    return " ".join(kept) or str(error).strip()


def compilation_error(source: ir.Model, graph: Path, error: Exception) -> BuildError:
    """Returns the error about a graph that OpenVINO reads and cannot compile, with the nodes that it may mean."""
    text = words_of(error)
    found = _meant(source, text)
    where = f" at node {_named([_shown(node, node.op_type) for node in found])}" if found else ""
    reason = text.rpartition(_THROWN)[2]
    return BuildError(
        f"OpenVINO failed to build {graph.name}{where}: {reason}", hint=f"build it with {argument('target', 'cpu')}"
    )


def _meant(source: ir.Model, text: str) -> list[ir.Node]:
    """Returns the nodes of the operator, or with the element type, that a message is about."""
    nodes = list(source.graph.all_nodes())
    if (layer := _LAYER.search(text)) is not None:
        operator = layer[1] or layer[2]  # such as LSTMSequence for LSTM
        return [node for node in nodes if operator.startswith(node.op_type)]
    if (kind := _TYPE.search(text)) is not None:
        letters, bits = re.fullmatch(r"([a-z]+)(\d+)", kind[1]).groups()  # type: ignore[union-attr]
        name = _TYPES.get(letters, letters) + ("" if (letters, bits) == ("f", "32") else bits)
        values = ((node, (*node.inputs, *node.outputs)) for node in nodes)
        return [
            node
            for node, each in values
            if any(value is not None and value.dtype is not None and value.dtype.name == name for value in each)
        ]
    return []


def _shown(node: ir.Node, operator: str) -> str:
    return f"'{node.name or node.outputs[0].name}' ({operator})"


def _named(nodes: Sequence[str]) -> str:
    more = f" and {len(nodes) - NAMED_NODES} more" if len(nodes) > NAMED_NODES else ""
    return ", ".join(nodes[:NAMED_NODES]) + more
