"""Gives poolings with ``ceil_mode`` their pads as numbers, for a backend that rounds the output's size otherwise."""

from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir

from edgekit.arguments import argument
from edgekit.errors import GraphError
from edgekit.graph.passes.round_up_windows import Windows, windows_of
from edgekit.lower.rewriting import NotApplicable, RewritePass, initializer, new_node, replace_node

__all__ = ["ExplicitPads"]


class ExplicitPads(RewritePass):
    """Replaces ``ceil_mode`` of a pooling by pads at the end that give the same windows.

    ONNX has no window that starts behind the image and its pads at the start, and an average over the pads
    (``count_include_pad``) does not count what a window covers beyond them. Measured on OpenVINO 2026.4: a MaxPool has
    such windows; an AveragePool divides by other counts; an LpPool covers other elements.

    Args:
        operator: ``MaxPool``, ``AveragePool`` or ``LpPool``.

    Preconditions: values have their shapes.
    Postconditions: a MaxPool with ``ceil_mode`` has no window that could start behind the image; an AveragePool with
        ``ceil_mode`` does not count pads, and is scaled by the share of them instead; an LpPool has no ``ceil_mode``.
        The pooling keeps its name and its output. Results are the same up to rounding.
    """

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = operator

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`.

        Raises:
            GraphError: the size of the image is dynamic, so that its windows are not known.
        """
        if not node.attributes.get_int("ceil_mode", 0) or node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
            raise NotApplicable("its output's size is not rounded up")
        counts = self.operator == "AveragePool" and node.attributes.get_int("count_include_pad", 0) == 1
        if self.operator == "AveragePool" and not counts:
            raise NotApplicable("it does not count pads")
        if self.operator == "MaxPool" and not _may_start_behind(node):
            raise NotApplicable("no window starts behind the image")
        axes = _require_windows(node)
        pads = [*(axis.begin for axis in axes), *(axis.needed for axis in axes)]
        attributes = {
            name: each for name, each in node.attributes.items() if name not in ("ceil_mode", "count_include_pad")
        }
        attributes["pads"] = ir.AttrInt64s("pads", pads)
        pool = ir.node(
            node.op_type,
            node.inputs,
            name=node.name,
            outputs=[ir.Value(name=value.name if counts else None) for value in node.outputs],
        )
        pool.attributes.update(attributes)
        if not counts:
            _replace(node, pool)
            return
        y = node.outputs[0].name
        pool.outputs[0].name = f"{y}.of_pixels"
        share = functools.reduce(np.multiply.outer, [_share(axis) for axis in axes])
        factor = initializer(graph, f"{y}.share_of_pads", share[np.newaxis, np.newaxis].astype(np.float32))
        replace_node(node, [pool, new_node("Mul", [pool.outputs[0], factor], name=f"{node.name}.with_pads")])


def _may_start_behind(node: ir.Node) -> bool:
    kernel = node.attributes.get_ints("kernel_shape") or ()
    ones = [1] * len(kernel)
    strides, dilations = (node.attributes.get_ints(name, ones) for name in ("strides", "dilations"))
    ends = node.attributes.get_ints("pads", [0] * 2 * len(kernel))[len(kernel) :]
    return any(
        end + stride > (size - 1) * dilation + 1
        for size, stride, dilation, end in zip(kernel, strides, dilations, ends, strict=True)
    )


def _share(axis: Windows) -> np.ndarray:
    """For each window, the elements of the image in it, as a share of those of the image and its pads."""
    positions = np.arange(axis.windows)[:, None] * axis.stride + np.arange(axis.kernel)[None] * axis.dilation
    padded = (positions < axis.begin + axis.size + axis.end).sum(axis=1)
    inside = ((positions >= axis.begin) & (positions < axis.begin + axis.size)).sum(axis=1)
    return np.asarray(inside / np.maximum(padded, 1))


def _require_windows(node: ir.Node) -> list[Windows]:
    windows = windows_of(node)
    if windows is None:
        raise GraphError(
            f"node '{node.name or node.outputs[0].name}': this target computes {node.op_type} with ceil_mode otherwise "
            "than ONNX, and it cannot be rewritten because the size of its input is dynamic",
            hint=f"give the model a fixed size, or build it with {argument('target', 'cpu')}",
        )
    return windows


def _replace(node: ir.Node, pool: ir.Node) -> None:
    assert node.graph is not None
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], [pool], node.outputs, pool.outputs)
