"""Attributes that name an element type."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx

from edgekit.errors import GraphError

__all__ = ["require_known_types"]

_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "output_datatype"})
"""Of ``Cast``, ``EyeLike``, ``RandomNormal``, ``Bernoulli``, ``QuantizeLinear``, ``HannWindow`` and others."""
_DEFAULT = {"output_dtype": (onnx.TensorProto.UNDEFINED,)}
"""``QuantizeLinear`` takes the type of its zero point then."""
_TYPES = frozenset(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}


def require_known_types(nodes: Iterable[onnx.NodeProto], path: Path) -> None:
    """Raises `GraphError` for a node of ONNX with a type that ONNX does not have; onnx's checker lets it pass."""
    for node in nodes:
        if node.domain not in ("", "ai.onnx"):
            continue
        for attribute in node.attribute:
            number = attribute.i
            if attribute.name not in _ATTRIBUTES or attribute.ref_attr_name:
                continue
            if number not in _TYPES and number not in _DEFAULT.get(attribute.name, ()):
                raise GraphError(
                    f"{path}: {node.op_type} '{node.name or next(iter(node.output), '')}': expected a type of "
                    f"ONNX {onnx.__version__} for '{attribute.name}', got the number {number}"
                )
