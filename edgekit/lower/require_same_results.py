"""Refuses nodes that OpenVINO computes otherwise than ONNX Runtime, and that no other operators replace."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.arguments import argument
from edgekit.errors import GraphError

__all__ = ["require_same_results"]

_BYTES = frozenset(
    {ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E4M3FNUZ, ir.DataType.FLOAT8E5M2, ir.DataType.FLOAT8E5M2FNUZ}
)


def require_same_results(model: ir.Model) -> None:
    """Checks that no node is computed otherwise. Measured on OpenVINO 2026.4.

    Raises:
        GraphError: names the node and the difference.
    """
    for node in model.graph.all_nodes():
        difference = _difference(node)
        if difference:
            raise GraphError(
                f"node '{node.name or node.outputs[0].name}' ({node.op_type}): {difference}",
                hint=f"build the model with {argument('target', 'cpu')}",
            )


def _difference(node: ir.Node) -> str:
    if node.op_type == "RoiAlign" and node.attributes.get_string("mode", "avg") == "max":
        return (
            "this target takes the largest of the interpolated points, and ONNX Runtime the largest of the weighted "
            "pixels around them"
        )
    if node.op_type in ("Cast", "CastLike", "QuantizeLinear") and node.outputs[0].dtype in _BYTES:
        return "this target rounds to 16 bits first, and then to float8"
    return ""
