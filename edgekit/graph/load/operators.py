"""Checks that the operators of an ONNX file are known."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx

from edgekit.errors import GraphError, nearest
from edgekit.graph.load.runtime_operators import RUNTIME_DOMAINS
from edgekit.graph.load.walk import nodes_of

__all__ = ["require_known_operators"]

_ONNX_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
_HINT_CUSTOM = "export the model without custom operators"
_HINT_QONNX = "export the model with Q/DQ pairs: Brevitas's export_onnx_qcdq writes them instead of export_qonnx"
_HINT_AIMET = "export the model with the method export of AIMET's QuantizationSimModel, which leaves its quantizers out"
_HINT_PROCESSING = "take the model without the steps that onnxruntime-extensions puts before and behind it"
_HINT_SUPPRESSION = (
    "export the detector without suppression, such as without --end2end, --include-nms or nms=True: EdgeKit suppresses "
    "boxes itself"
)
_HINTS = {
    "qonnx.custom_op": _HINT_QONNX,
    "onnx.brevitas": _HINT_QONNX,
    "aimet": _HINT_AIMET,
    "ai.onnx.contrib": _HINT_PROCESSING,
}
"""Hints on domains that begin so: how to get a file with operators of ONNX alone."""


def require_known_operators(model: onnx.ModelProto, path: Path) -> None:
    """Checks that ONNX has each operator in the opset of the file, or that the file has a function of that name.

    Operators of ONNX Runtime's domains are not checked: the installed one decides when it loads the graph.

    Raises:
        GraphError: an operator or its domain is unknown; names the node.
    """
    versions = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
    newest = onnx.defs.onnx_opset_version()
    if versions.get("", 0) > newest:
        raise GraphError(
            f"{path}: expected opset {newest} or older, got {versions['']}",
            hint="pip install --upgrade onnx onnxruntime",
        )
    own = {(function.domain, function.name) for function in model.functions}
    for node in nodes_of(model):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (node.domain, node.op_type) in own:
            continue
        where = f"{path}: node '{node.name or (node.output[0] if node.output else '')}'"
        if domain not in _ONNX_DOMAINS and domain not in RUNTIME_DOMAINS:
            raise GraphError(
                f"{where}: unknown operator '{node.op_type}' of domain '{domain}'", hint=_hint(node.op_type, domain)
            )
        if domain in _ONNX_DOMAINS and not _is_defined(node.op_type, domain, versions.get(domain, 1)):
            known, opset = _operators(domain), versions.get(domain, 1)
            since = known.get(node.op_type, 0)
            if since > opset:
                raise GraphError(
                    f"{where}: operator '{node.op_type}' is in {domain or 'ONNX'} since opset {since}, and the file "
                    f"declares opset {opset}",
                    hint=f"export the model with opset {since} or newer",
                )
            raise GraphError(
                f"{where}: operator '{node.op_type}' is not in opset {opset} of {domain or 'ONNX'}",
                hint=_hint(node.op_type, domain, known),
            )


def _hint(operator: str, domain: str, known: Iterable[str] = ()) -> str:
    """Says what to do about an operator that none of the ``known`` ones of its domain is."""
    if "NMS" in operator:  # TensorRT's plugins, whose nodes have no domain or one of several
        return _HINT_SUPPRESSION
    of_domain = (hint for start, hint in _HINTS.items() if domain.startswith(start))
    return next(of_domain, nearest(operator, known, listed=False) or _HINT_CUSTOM)


def _is_defined(operator: str, domain: str, version: int) -> bool:
    try:
        onnx.defs.get_schema(operator, version, domain)
    except onnx.defs.SchemaError:
        return False
    return True


def _operators(domain: str) -> dict[str, int]:
    """Returns the operators of a domain, with the first opset that each is in."""
    known: dict[str, int] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == domain:
            known[schema.name] = min(schema.since_version, known.get(schema.name, schema.since_version))
    return known
