"""Nodes that a target's integer kernels compute wrongly or refuse, by the name of the limit in its `QuantScheme`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import onnx_ir as ir

from edgekit.graph.operators import PRODUCTS

__all__ = ["LIMITS", "limit_of"]


_RANK_OF_TOKENS = 3
_TILE = 16


class Limit(NamedTuple):
    """What a limit of an integer kernel applies to, and the reason that users read."""

    applies: Callable[[ir.Node], bool]
    reason: str


def limit_of(node: ir.Node, limits: Collection[str]) -> str | None:
    """Returns why ``node`` stays in float, by the first of ``limits`` that applies to it; None if none does."""
    found = (LIMITS[name] for name in sorted(limits))
    return next((limit.reason for limit in found if limit.applies(node)), None)


def _any_but(node: ir.Node, attribute: str, usual: int) -> bool:
    return any(number != usual for number in node.attributes.get_ints(attribute, ()))


def _counts_pads(node: ir.Node) -> bool:
    return node.op_type == "AveragePool" and node.attributes.get_int("count_include_pad", 0) == 1


def _counts_its_pads(node: ir.Node) -> bool:
    padded = _any_but(node, "pads", 0) or node.attributes.get_string("auto_pad", "NOTSET").startswith("SAME")
    return _counts_pads(node) and (padded or _rounds_up(node))


def _rounds_up(node: ir.Node) -> bool:
    return node.attributes.get_int("ceil_mode", 0) == 1


def _joins_other_axes(node: ir.Node) -> bool:
    """Whether a Concat joins another axis than the second, or tokens that a matrix product reads."""
    if node.op_type != "Concat":
        return False
    shape, axis = node.outputs[0].shape, node.attributes.get_int("axis", 1)
    rank = len(shape) if shape is not None else None
    if (axis % rank if rank is not None else axis) != 1:
        return True
    readers = {use.node.op_type for use in node.outputs[0].uses()}
    return rank == _RANK_OF_TOKENS and not readers.isdisjoint({"Gemm", "MatMul"})


def _has_part_of_a_tile(node: ir.Node) -> bool:
    """Whether a product has more than 16 columns, or outputs of a group, and no multiple of 16; or unknown ones."""
    if node.op_type not in PRODUCTS:
        return False
    shape = node.outputs[0].shape
    axis = -1 if node.op_type in ("Gemm", "MatMul") else 1
    size = shape[axis] if shape is not None and len(shape) > 1 else None
    if not isinstance(size, int):
        return True
    columns = size // node.attributes.get_int("group", 1)
    return columns > _TILE and columns % _TILE != 0


def _has_groups_of_many_outputs(node: ir.Node) -> bool:
    """Whether the groups of a convolution have fewer than 32 channels, and more than 32 outputs.

    Of those, the ones of 33 to 48, 65 to 80, ... outputs are wrong always, the others for some strides and kernels.
    """
    weights = node.inputs[1] if node.op_type == "Conv" else None
    groups = node.attributes.get_int("group", 1)
    if weights is None or weights.shape is None or not weights.shape.is_static() or groups == 1:
        return False
    outputs, channels, *_ = weights.shape.numpy()
    return channels < 2 * _TILE and outputs // groups > 2 * _TILE


def _is_read_with_pads(node: ir.Node) -> bool:
    if node.op_type != "MatMul":
        return False
    stack = [node]
    while stack:
        for use in stack.pop().outputs[0].uses():
            if _counts_its_pads(use.node):
                return True
            stack += [use.node] if use.node.op_type in ("Div", "Mul") else []
    return False


LIMITS: Mapping[str, Limit] = {
    "average-dilated": Limit(
        lambda node: node.op_type == "AveragePool" and _any_but(node, "dilations", 1),
        "the target's integer kernel has no dilations",
    ),
    "average-of-pads": Limit(_counts_its_pads, "the target's integer kernel fills pads with another number than 0"),
    "average-of-pads-rounded-up": Limit(
        lambda node: _counts_pads(node) and _rounds_up(node),
        "the target's integer kernel counts elements behind the pads",
    ),
    "average-of-pads-behind-matmul": Limit(
        _is_read_with_pads, "the target scales the pads of the average behind a matrix product of integers"
    ),
    "columns-of-a-part-of-a-tile": Limit(
        _has_part_of_a_tile,
        "ONNX Runtime 1.21 to 1.24 computes so many columns wrong on processors with AMX",
    ),
    "groups-of-many-outputs": Limit(
        _has_groups_of_many_outputs, "the target's kernel for AMX takes the zero point of one group for all"
    ),
    "concat-of-other-axes": Limit(_joins_other_axes, "the target concatenates channels alone in integers"),
}
"""Measured with ONNX Runtime 1.32 and OpenVINO 2026.4, against the Q/DQ graph in ONNX Runtime without optimizations."""
