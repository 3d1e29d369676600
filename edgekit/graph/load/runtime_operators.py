"""Checks nodes of ONNX Runtime's own operators, which onnx's checker does not know."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import onnx

from edgekit.errors import GraphError
from edgekit.graph.load.argument_counts import expected_count
from edgekit.telemetry import import_onnxruntime

__all__ = ["RUNTIME_DOMAINS", "inputs_of_the_type_of", "require_declared_arguments"]

RUNTIME_DOMAINS = frozenset({"com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"})


def require_declared_arguments(nodes: Iterable[onnx.NodeProto], path: Path) -> None:
    """Checks inputs, outputs and attributes of the nodes of ONNX Runtime's domains against its operators.

    An operator that the installed ONNX Runtime does not have is not checked: it is named when the graph is loaded.

    Raises:
        GraphError: a node has too few or too many inputs or outputs, leaves a required one out, or has no attribute of
            the right type where one is required.
    """
    for node in nodes:
        schema = _schemas().get((node.domain, node.op_type)) if node.domain in RUNTIME_DOMAINS else None
        if schema is None:
            continue
        where = f"{path}: node '{node.name or next(iter(node.output), '')}': {node.op_type} of {node.domain}"
        _require_count(where, "inputs", node.input, schema.min_input, schema.max_input, schema.inputs)
        _require_count(where, "outputs", node.output, schema.min_output, schema.max_output, schema.outputs)
        _require_attributes(where, node, schema)


@functools.cache
def inputs_of_the_type_of(domain: str, operator: str, output: int) -> tuple[int, ...]:
    """Returns the inputs that have the element type of an output, as one of ONNX Runtime's operators declares it.

    Args:
        domain: one of `RUNTIME_DOMAINS`.
        operator: its name; one that the installed ONNX Runtime does not have gives no inputs.
        output: index of the output.
    """
    schema = _schemas().get((domain, operator))
    if schema is None or output >= len(schema.outputs):
        return ()
    kind = schema.outputs[output].typeStr
    return tuple(index for index, formal in enumerate(schema.inputs) if formal.typeStr == kind)


def _require_count(where: str, kind: str, names: Sequence[str], least: int, most: int, declared: Any) -> None:
    if wanted := expected_count(len(names), least, most):
        raise GraphError(f"{where}: expected {wanted} {kind}, got {len(names)}")
    if kind == "inputs":
        for name, formal in zip(names, declared, strict=False):
            if not name and formal.option.name == "Single":
                raise GraphError(f"{where}: expected an input '{formal.name}', got none")


def _require_attributes(where: str, node: onnx.NodeProto, schema: Any) -> None:
    given = {attribute.name: attribute for attribute in node.attribute}
    for name, declared in schema.attributes.items():
        if name not in given:
            if declared.required:
                raise GraphError(f"{where}: expected an attribute '{name}', got none")
        elif given[name].type != int(declared.type):
            got = onnx.AttributeProto.AttributeType.Name(given[name].type)
            raise GraphError(f"{where}: attribute '{name}': expected {declared.type.name}, got {got}")


@functools.cache
def _schemas() -> dict[tuple[str, str], Any]:
    """Returns ONNX Runtime's own operators in their newest version, by domain and name."""
    import_onnxruntime()
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    found: dict[tuple[str, str], Any] = {}
    for schema in state.get_all_operator_schema():
        key = (schema.domain, schema.name)
        if schema.domain in RUNTIME_DOMAINS and (key not in found or found[key].since_version < schema.since_version):
            found[key] = schema
    return found
