"""Gives layers with ``auto_pad`` and dilations their pads as numbers.

ONNX Runtime 1.32 refuses such a convolution, and forgets the dilations of such a pooling when it counts the pads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from edgekit.arguments import argument
from edgekit.errors import GraphError

__all__ = ["ExplicitSamePads", "require_explicit_pads"]

_WEIGHT = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
"""The input of each convolution that is its weight."""
_POOLS = frozenset({"AveragePool", "LpPool", "MaxPool"})
_SAME = ("SAME_UPPER", "SAME_LOWER")


class ExplicitSamePads(ir.passes.InPlacePass):
    """Replaces ``auto_pad`` of a dilated convolution or pooling by the ``pads`` that ONNX defines for it.

    The output has ``ceil(size / stride)`` elements along each axis, and the pads are split into two halves; of an odd
    number, the larger half is at the end (``SAME_UPPER``) or at the start (``SAME_LOWER``).

    Preconditions: values have their shapes.
    Postconditions: no convolution or pooling has both, except where the pads depend on a dynamic size, or are as wide
        as the kernel of a pooling, which ONNX Runtime refuses; see `require_explicit_pads`.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in _with_same_pads(model.graph.all_nodes()):
            pads = _pads(node)
            if pads is not None and not _holds_kernel(node, pads):
                del node.attributes["auto_pad"]
                node.attributes["pads"] = ir.AttrInt64s("pads", pads)
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def require_explicit_pads(graph: ir.Model) -> None:
    """Checks that no convolution or pooling has ``auto_pad`` and dilations.

    Raises:
        GraphError: one has them; names it.
    """
    for node in _with_same_pads(graph.graph.all_nodes()):
        what = (
            f"node '{node.name or node.outputs[0].name}': the pads of a {node.op_type} with "
            f"auto_pad={node.attributes.get_string('auto_pad', '')}, dilations"
        )
        if _pads(node) is not None:
            raise GraphError(
                f"{what} {list(node.attributes.get_ints('dilations', ()))} are as wide as its kernel, and ONNX "
                "Runtime, which every model runs in first, has no such pooling",
                hint="export it with a Pad before the pooling",
            )
        raise GraphError(
            f"{what} and strides depend on the size of its input, which is dynamic",
            hint=f"give the model a fixed size with {argument('input')} or {argument('shape')}, or export it with pads",
        )


def _holds_kernel(node: ir.Node, pads: Sequence[int]) -> bool:
    kernel = _kernel(node)
    return node.op_type in _POOLS and any(pad >= size for pad, size in zip(pads, [*kernel, *kernel], strict=True))


def _with_same_pads(nodes: Iterable[ir.Node]) -> Iterable[ir.Node]:
    for node in nodes:
        padded = node.op_type in _WEIGHT or node.op_type in _POOLS
        if node.domain == "" and padded and node.attributes.get_string("auto_pad", "") in _SAME:
            if any(dilation != 1 for dilation in node.attributes.get_ints("dilations", ())):
                yield node


def _pads(node: ir.Node) -> list[int] | None:
    """Returns the pads at the start of each axis, then those at the end; None if they are unknown."""
    dilations = node.attributes.get_ints("dilations", ())
    kernel = _kernel(node)
    if len(kernel) != len(dilations):
        return None
    data = node.inputs[0]
    sizes = list(data.shape)[2:] if data is not None and data.shape is not None else [None] * len(kernel)
    strides = node.attributes.get_ints("strides", [1] * len(kernel))
    totals = []
    for size, window, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        reach = (window - 1) * dilation + 1
        if stride == 1:
            totals.append(reach - 1)  # for each size
        elif isinstance(size, int):
            totals.append(max(0, (math.ceil(size / stride) - 1) * stride + reach - size))
        else:
            return None
    halves, rest = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return [*halves, *rest] if node.attributes.get_string("auto_pad", "") == "SAME_UPPER" else [*rest, *halves]


def _kernel(node: ir.Node) -> Sequence[int]:
    kernel = node.attributes.get_ints("kernel_shape")
    if kernel is not None:
        return kernel
    weight = node.inputs[_WEIGHT[node.op_type]]
    shape = weight.shape if weight is not None else None
    sizes = list(shape)[2:] if shape is not None else []
    return [size for size in sizes if isinstance(size, int)]
